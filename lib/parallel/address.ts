/** Whether the machine of rank 0 has a name that this one knows. */
import { lookup } from 'node:dns/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { ParallelError } from '../errors.js'

interface ResolveOptions {
  /** Seconds in which the name may still appear, as that of a pod that starts at the same time. @default 0 */
  appearsWithin?: number
  signal?: AbortSignal
  /** Stands in for the resolver. */
  resolve?: (name: string) => Promise<unknown>
}

/** Seconds for a name server that is busy. */
const patience = 5

/**
 * Makes sure that a name or an address can be connected to: without this, ranks would wait for rank 0 until they run out
 * of time.
 * @throws {ParallelError} `INVALID_ENVIRONMENT` when the name stays unknown
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
    const isFinal = outcome === 'ENOTFOUND' && appearsWithin === 0 // any other code may be that of a busy name server
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
