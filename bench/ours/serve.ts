import { createInterface } from 'node:readline'
import { deviceName, openBenchDevice } from '../device.js'

const say = (message: object) => process.stdout.write(`${JSON.stringify(message)}\n`)

/** The options from the parent process. */
export function childOptions<Options>(): Options {
  return JSON.parse(process.argv[2]) as Options
}

/** Bytes of the process; on the GPU all allocated memory, which our allocator keeps until the end. */
function peakMemory(): number {
  if (deviceName !== 'cuda') return process.resourceUsage().maxRSS * 1024
  const { totalMemory, freeMemory } = openBenchDevice().properties
  return totalMemory - freeMemory
}

/** The child's side of child.ts, like python/protocol.py: answers each line with the figures of one repetition. */
export async function serve(repetition: (line: string) => Promise<object>, facts: object = {}): Promise<void> {
  say({ ready: true, ...facts })
  for await (const line of createInterface({ input: process.stdin })) say(await repetition(line))
  say({ peak_memory: peakMemory() })
}
