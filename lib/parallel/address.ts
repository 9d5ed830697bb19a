/** Checks that this machine can resolve the name of rank 0's machine. */
import { lookup } from 'node:dns/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { ParallelError } from '../errors.js'

interface ResolveOptions {
  /**
   * Seconds during which the name may still appear, for example that of a pod that starts at the same time. @default 0
   */
  appearsWithin?: number
  signal?: AbortSignal
  /** Replaces the resolver. */
  resolve?: (name: string) => Promise<unknown>
}

/** Seconds to retry while a name server is busy. */
const patience = 5

/**
 * Checks that a name or an address resolves; otherwise ranks would wait for rank 0 until the timeout.
 * @throws {ParallelError} `INVALID_ENVIRONMENT` for a name that stays unknown
 */
export async function checkAddress(
  address: string,
  { appearsWithin = 0, signal, resolve = lookup }: ResolveOptions = {},
): Promise<void> {
  const deadline = performance.now() + 1000 * Math.max(patience, appearsWithin)
  for (let pause = 100; ; pause = Math.min(2 * pause, 2000)) {
    const outcome = await Promise.race([
      resolve(address).then(
        () => undefined,
        (error: NodeJS.ErrnoException) => error.code ?? error.message,
      ),
      sleep(Math.max(0, deadline - performance.now()), 'no answer', { signal, ref: false }),
    ])
    if (outcome === undefined) return
    const isFinal = outcome === 'ENOTFOUND' && appearsWithin === 0 // any other code may come from a busy name server
    if (!isFinal && performance.now() + pause < deadline) await sleep(pause, undefined, { signal })
    else {
      throw new ParallelError(
        'INVALID_ENVIRONMENT',
        `MASTER_ADDR is "${address}", a name that this machine cannot resolve (${outcome}): set it to the name or the ` +
          "address of rank 0's machine",
      )
    }
  }
}
