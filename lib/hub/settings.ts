/** Where the Hub and its cache are, from the environment variables that all of Hugging Face's tools know. */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import path from 'node:path'

/** Where models on the Hub are looked for; the environment's, unless they are given. */
export interface HubSettings {
  /** The Hub, without a slash at the end. */
  endpoint: string
  /** For private models, and for uploads. */
  token: string | undefined
  /** The directory of `models--owner--name`. */
  cacheDir: string
  /** Only what is in the cache may be used. */
  offline: boolean
}

/**
 * `HF_ENDPOINT`; `HF_TOKEN`, or the token that `hf auth login` has stored; `HF_HUB_CACHE`, or `hub` in `HF_HOME`;
 * `HF_HUB_OFFLINE`.
 */
export function hubSettings(env: NodeJS.ProcessEnv = process.env): HubSettings {
  const home = expand(env.HF_HOME || path.join(env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'huggingface'))
  return {
    endpoint: (env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, ''),
    token: env.HF_TOKEN?.trim() || env.HUGGING_FACE_HUB_TOKEN?.trim() || storedToken(env, home),
    cacheDir: expand(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || path.join(home, 'hub')),
    offline: /^(1|on|yes|true)$/i.test(env.HF_HUB_OFFLINE ?? ''),
  }
}

function storedToken(env: NodeJS.ProcessEnv, home: string): string | undefined {
  try {
    return readFileSync(expand(env.HF_TOKEN_PATH || path.join(home, 'token')), 'utf8').trim() || undefined
  } catch {
    return undefined // nobody has logged in
  }
}

function expand(file: string): string {
  return file.replace(/^~(?=\/|$)/, homedir())
}

/** A model on the Hub. */
export interface HubModel {
  /** `owner/name` */
  name: string
  /** A branch, a tag or a commit. */
  revision: string
}

/** Reads `owner/name` or `owner/name@revision`; undefined for what can only be a path. */
export function parseModelName(text: string): HubModel | undefined {
  const [, name, revision = 'main'] = /^([\w-][\w.-]*\/[\w-][\w.-]*?)(?:@([\w./-]+))?$/.exec(text) ?? []
  return name === undefined || /\.\.|--/.test(name) || revision.includes('..') ? undefined : { name, revision }
}
