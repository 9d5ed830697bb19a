/** The addresses of the Hub and its cache, from the environment variables that all of Hugging Face's tools use. */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import path from 'node:path'
import { HubError } from '../errors.js'

/** Where to look for models and data sets on the Hub; defaults to the environment's settings. */
export interface HubSettings {
  /** The Hub, without a trailing slash. */
  endpoint: string
  /** For private repositories, and for uploads. */
  token: string | undefined
  /** The directory of `models--owner--name` and `datasets--owner--name`. */
  cacheDir: string
  /** Use only the cache. */
  offline: boolean
}

const publicHub = 'https://huggingface.co'

/**
 * Settings from the environment: `HF_ENDPOINT`; `HF_TOKEN`, or the token that `hf auth login` has stored (in
 * `HF_TOKEN_PATH`); `HF_HUB_CACHE`, or `hub` in `HF_HOME`; `HF_HUB_OFFLINE`. A blank variable counts as missing.
 */
export function hubSettings(env: NodeJS.ProcessEnv = process.env): HubSettings {
  const home = expand(env.HF_HOME || path.join(env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'huggingface'))
  return {
    endpoint: (env.HF_ENDPOINT?.trim() || publicHub).replace(/\/+$/, ''),
    token: env.HF_TOKEN?.trim() || env.HUGGING_FACE_HUB_TOKEN?.trim() || storedToken(env, home),
    cacheDir: expand(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || path.join(home, 'hub')),
    offline: isOn(env.HF_HUB_OFFLINE) || isOn(env.TRANSFORMERS_OFFLINE),
  }
}

const isOn = (value = '') => /^(1|on|yes|true)$/i.test(value.trim())

function storedToken(env: NodeJS.ProcessEnv, home: string): string | undefined {
  try {
    return readFileSync(expand(env.HF_TOKEN_PATH || path.join(home, 'token')), 'utf8').trim() || undefined
  } catch {
    return undefined // not logged in
  }
}

function expand(file: string): string {
  return file.replace(/^~(?=\/|$)/, homedir())
}

/**
 * The settings for a request.
 * @throws {HubError} for an endpoint that is not a URL, or a token that a request cannot contain
 */
export function checkConnection({ endpoint, token }: Pick<HubSettings, 'endpoint' | 'token'>): { origin: string } {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined
  if (!url || !/^https?:$/.test(url.protocol) || url.hostname === '') {
    const bare = endpoint.replace(/^\w*:?\/+|^https?:/i, '')
    throw new HubError(
      `HF_ENDPOINT is "${endpoint}"; expected the URL of a Hub with its scheme: set it to https://${bare || 'huggingface.co'}`,
    )
  }
  const odd = /[^\x21-\x7e]/u.exec(token ?? '')
  if (odd) {
    const code = odd[0].codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')
    throw new HubError(
      `HF_TOKEN, or the token of hf auth login, has a character that tokens do not have (U+${code}, character ` +
        `${odd.index + 1}): copy it again from ${endpoint}/settings/tokens`,
    )
  }
  return { origin: url.origin }
}

/** A repository on the Hub. */
export interface Repository {
  kind: 'models' | 'datasets'
  /** `owner/name` */
  name: string
  /** A branch, a tag, or a commit. */
  revision: string
}

/** A model on the Hub. */
export interface HubModel {
  /** `owner/name` */
  name: string
  /** A branch, a tag, or a commit. */
  revision: string
}

/** Parses `owner/name` or `owner/name@revision`; undefined for a text that can only be a path. */
export function parseModelName(text: string): HubModel | undefined {
  const [, name, revision = 'main'] = /^([\w-][\w.-]*\/[\w-][\w.-]*?)(?:@([\w./-]+))?$/.exec(text) ?? []
  return name === undefined || /\.\.|--/.test(name) || revision.includes('..') ? undefined : { name, revision }
}

/**
 * The name in the address of a page on the Hub, in the form of `parseModelName` or `parseDatasetName`; undefined for
 * any other text.
 */
export function nameInUrl(
  text: string,
  endpoint: string = publicHub,
): { kind: Repository['kind']; name: string } | undefined {
  const [, isHf, address] = /^(?:https?:\/\/|(hf:\/+))?([^?#]*)/i.exec(text.trim())!
  const parts = address.split('/').filter(Boolean)
  if (!isHf) {
    const own = URL.canParse(endpoint) ? new URL(endpoint).host : ''
    const host = parts.shift()?.toLowerCase() ?? ''
    if (!['huggingface.co', 'www.huggingface.co', 'hf.co', own].includes(host)) return undefined
  }
  const kind = parts[0] === 'datasets' ? 'datasets' : 'models'
  if (parts[0] === kind) parts.shift()
  const [owner, name, page = '', ...rest] = parts
  if (owner === undefined || name === undefined) return undefined
  const isTree = /^(tree|blob|resolve|raw|commit)$/.test(page)
  const revision = isTree ? rest.splice(0, rest[0] === 'refs' ? 3 : 1).join('/') : ''
  const repository = `${owner}/${name}${/^(main)?$/.test(revision) ? '' : `@${decodeURIComponent(revision)}`}`
  const isFile = kind === 'datasets' && /^(blob|resolve|raw)$/.test(page) && rest.length > 0
  return { kind, name: isFile ? `hf://datasets/${repository}/${rest.join('/')}` : repository }
}
