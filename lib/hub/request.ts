import { setTimeout as sleep } from 'node:timers/promises'
import { HubError } from '../errors.js'
import { checkConnection, type HubSettings } from './settings.js'

export interface RequestOptions {
  /** Milliseconds before the first retry; the delay doubles with each one. */
  retryDelay?: number
  signal?: AbortSignal
}

const tries = 5
/** Longest wait that the Hub may ask for, in milliseconds. */
const longestWait = 300_000

/** Responses of hosts other than the Hub's, to requests from which a configured token was withheld. */
const withoutToken = new WeakSet<Response>()

/**
 * A `fetch` that sends the token to the Hub (and to no other host), and retries when the Hub is busy (429, 5xx) or the
 * network fails, after the delay that the Hub asks for or one that doubles each time.
 * @throws {HubError} for an invalid endpoint or token
 */
export function hubFetch(
  { endpoint, token }: Pick<HubSettings, 'endpoint' | 'token'>,
  { retryDelay = 1000, signal }: RequestOptions = {},
): typeof fetch {
  const { origin } = checkConnection({ endpoint, token })
  return async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input)
    const headers = new Headers(init?.headers)
    headers.delete('authorization')
    if (token !== undefined && url.origin === origin) headers.set('authorization', `Bearer ${token}`)
    for (let attempt = 1; ; attempt++) {
      const last = attempt === tries
      let wait = retryDelay * 2 ** (attempt - 1)
      try {
        const response = await fetch(url, { ...init, headers, signal: init?.signal ?? signal })
        if (token !== undefined && response.url && new URL(response.url).origin !== origin) withoutToken.add(response)
        if (last || !(response.status === 429 || response.status >= 500)) return response
        const told = toldToWait(response.headers.get('retry-after'))
        if (told !== undefined && told > longestWait) return response
        wait = told ?? wait
        await response.body?.cancel()
      } catch (error) {
        if (last || (error as Error).name === 'AbortError' || signal?.aborted) throw error
      }
      await sleep(wait, undefined, { signal })
    }
  }
}

/** Milliseconds in a Retry-After header, which has seconds or a date. */
function toldToWait(header: string | null): number | undefined {
  if (header === null) return undefined
  const wait = /^\d+$/.test(header) ? 1000 * Number(header) : Date.parse(header) - Date.now()
  return Number.isNaN(wait) ? undefined : Math.max(wait, 0)
}

/**
 * The error for an unsuccessful response.
 * @param what the requested item: `the model owner/name`
 */
export async function answerError(response: Response, what: string, endpoint: string): Promise<HubError> {
  const { status, headers } = response
  const said = headers.get('x-error-message') ?? (await errorText(response))
  const explain = (text: string) => new HubError(`${what}: ${text}`, undefined, status)
  if (withoutToken.has(response) && [401, 403, 404].includes(status)) {
    const { origin } = new URL(response.url)
    return explain(
      `${endpoint} sends requests on to ${origin}, which refuses them (${status}) and does not get your token: set ` +
        `HF_ENDPOINT to ${origin} if you trust it with the token`,
    )
  }
  if (headers.get('x-error-code') === 'GatedRepo') {
    return explain(`its owner wants to be asked first: accept the terms at ${endpoint}, and set HF_TOKEN to your token`)
  }
  if (status === 401) {
    return explain(`not on ${endpoint}, or private: check the name, or set HF_TOKEN to a token that may read it`)
  }
  if (status === 403) return explain(`your token has no permission to do that on ${endpoint}${said && `: ${said}`}`)
  if (status === 404) return explain(`not found on ${endpoint}: check the name and the revision`)
  if (status === 429) return explain(`${endpoint} received too many requests: try again in a few minutes`)
  return explain(`${endpoint} answered ${status}${said && `: ${said}`}`)
}

/**
 * The JSON of a response.
 * @throws {HubError} for a web page, such as that of a network that requires a sign-in
 */
export async function answerJson(response: Response, endpoint: string): Promise<unknown> {
  const text = await response.text()
  try {
    return JSON.parse(text)
  } catch (cause) {
    const type = response.headers.get('content-type')?.split(';')[0] ?? 'no type'
    const start = text.replace(/\s+/g, ' ').trim().slice(0, 40)
    throw new HubError(
      `${endpoint} answered with something else than JSON (${type}: "${start}"): check HF_ENDPOINT, and open the address in ` +
        'a browser, as the network may want a sign-in or send all pages through a proxy',
      { cause },
    )
  }
}

async function errorText(response: Response): Promise<string> {
  const text = await response.text().catch(() => '')
  try {
    const { error } = JSON.parse(text)
    return typeof error === 'string' ? error.slice(0, 200) : ''
  } catch {
    return ''
  }
}

/** Why a request got no response. */
export function networkReason(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  // fetch reports only "fetch failed"; its cause has the reason.
  const { cause } = error as { cause?: { code?: string; message?: string } }
  return cause?.message || cause?.code || error.message
}
