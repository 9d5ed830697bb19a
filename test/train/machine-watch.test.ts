import { describe, expect, it } from 'vitest'
import type { TrainEvent } from '../../lib/train/events.js'
import { type CpuTimes, MachineWatch, readCpuTimes } from '../../lib/train/machine-watch.js'
import { startEvent, stepEvent } from './run.js'

interface Load {
  /** Cores that other programs keep busy. */
  others?: number
  threads?: number
  device?: string
  ranks?: number
}

/** A machine of four cores, on which a run and other programs compute. */
function machine({ others = 0, threads = 4, device = 'cpu', ranks = 1 }: Load = {}) {
  const state = { others }
  const times: CpuTimes = { all: 100, own: 10, wall: 1000 }
  const pass = (seconds: number) => {
    const own = Math.min(threads, 4 - state.others)
    times.wall += seconds
    times.own += own * seconds
    times.all += (own + state.others) * seconds
  }
  const warnings: string[] = []
  const emit = (event: TrainEvent) => void (event.type === 'warning' && warnings.push(event.message))
  const watch = new MachineWatch({ emit }, { threads, cores: 4, read: () => ({ ...times }) })
  const start = (seconds = 1) => {
    pass(seconds)
    const event = startEvent()
    watch.handle({ ...event, world_size: ranks, device: { ...event.device, type: device } })
    return warnings
  }
  const step = (rates: number[]) => {
    for (const rate of rates) {
      pass(1)
      watch.handle({ ...stepEvent(1), tokens_per_second: rate })
    }
    return warnings
  }
  return { state, start, step }
}

describe('a run that starts', () => {
  it('warns about other programs on the cores that a run needs, with the number of free threads', () => {
    expect(machine({ others: 2.9 }).start()).toEqual([
      'other programs keep 2.9 of 4 cores busy, and this run computes with 4 threads: ' +
        '--threads 1 is often faster until they end',
    ])
  })

  it.each<[string, Load]>([
    ['nothing else runs', { others: 0 }],
    ['others use less than half a core', { others: 0.4 }],
    ['its threads and the others fit', { others: 2, threads: 2 }],
    ['it does not compute on the CPU', { others: 4, device: 'cuda' }],
    ['other ranks may be the others', { others: 4, ranks: 2 }],
    ['it computes with one thread', { others: 4, threads: 1 }],
  ])('does not warn when %s', (_, load) => {
    expect(machine(load).start()).toEqual([])
  })

  it('does not judge by fewer than a few clock ticks', () => {
    expect(machine({ others: 4 }).start(0.1)).toEqual([])
  })
})

describe('a run whose steps become slower', () => {
  const usual = Array.from({ length: 20 }, (_, i) => 10_000 + 100 * (i % 5))
  const slow = (count: number, rate = 2000) => Array<number>(count).fill(rate)

  it('warns once when steps become slower, and names the programs that use the cores', () => {
    const busy = machine()
    busy.start()
    expect(busy.step(usual)).toEqual([])
    busy.state.others = 3
    expect(busy.step(slow(20))).toEqual([
      'steps have become 5.1 times slower, 2k tok/s after 10.2k: other programs keep 3.0 of 4 cores busy; ' +
        'wait for them, or stop with Ctrl-C and go on with --resume auto --threads 1',
    ])
  })

  it.each<[string, Load]>([
    ['no other program uses the cores', {}],
    ['it computes on a GPU', { device: 'cuda', others: 1, threads: 1 }],
  ])('suggests another cause when %s', (_, load) => {
    const run = machine(load)
    run.start()
    expect(run.step([...usual, ...slow(5)])).toEqual([
      expect.stringMatching(/: look for other programs on this machine or its GPU$/),
    ])
  })

  it.each<[string, number[]]>([
    ['a few slow steps', [...usual, ...slow(4, 100), ...usual, ...slow(4, 100)]],
    ['steps that are slow from the start', slow(40, 100)],
    ['slightly slower ones', [...usual, ...slow(20, 5000)]],
  ])('does not warn about %s', (_, rates) => {
    const run = machine()
    run.start()
    expect(run.step(rates)).toEqual([])
  })
})

it('CPU times of this machine increase, and include those of this process', () => {
  const before = readCpuTimes()
  const until = performance.now() + 50
  while (performance.now() < until);
  const after = readCpuTimes()
  expect(after.wall).toBeGreaterThan(before.wall)
  expect(after.own).toBeGreaterThan(before.own)
  expect(after.all).toBeGreaterThanOrEqual(before.all)
  expect(after.all).toBeGreaterThan(after.own / 2)
})
