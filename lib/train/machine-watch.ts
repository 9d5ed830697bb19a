/** Detects that other programs use the cores that a run computes on, which can slow it down many times. */
import os from 'node:os'
import { formatCount } from '../format.js'
import type { Followers, StartEvent, StepEvent, TrainEvent, TrainSubscriber } from './events.js'

/** CPU time so far, in seconds. */
export interface CpuTimes {
  /** Of all programs, on all cores. */
  all: number
  /** Of this process. */
  own: number
  /** Elapsed time. */
  wall: number
}

export function readCpuTimes(): CpuTimes {
  const busy = os.cpus().reduce((sum, { times }) => sum + times.user + times.nice + times.sys + times.irq, 0)
  const { user, system } = process.cpuUsage()
  return { all: busy / 1000, own: (user + system) / 1e6, wall: performance.now() / 1000 }
}

interface WatchOptions {
  /** @default OpenMP's number of threads */
  threads?: number
  /** @default the machine's number of cores */
  cores?: number
  /** Replaces the operating system's counters. */
  read?: () => CpuTimes
}

/** Below this, the system's clock ticks are too coarse. */
const shortest = 0.2 // seconds
/** Steps that set the baseline for later ones. */
const baselineSteps = 10
/** Consecutive steps that must be slow, and how much slower. */
const slowSteps = 5
const slowFactor = 2.5

/** Watches a run; create it before the model is loaded, to measure other programs in the meantime. */
export class MachineWatch implements TrainSubscriber {
  private readonly cores: number
  /** Threads that the run computes with; undefined if it is not on the CPU, or spans other processes. */
  private threads: number | undefined
  private readonly read: () => CpuTimes
  private before: CpuTimes
  private readonly rates: number[] = []
  private slow: number[] = []
  private isWarned = false

  /** @param followers receive the warnings */
  constructor(
    private readonly followers: Pick<Followers, 'emit'>,
    private readonly options: WatchOptions = {},
  ) {
    this.cores = options.cores ?? os.cpus().length
    this.read = options.read ?? readCpuTimes
    this.before = this.read()
  }

  handle(event: TrainEvent): void {
    const warning =
      event.type === 'start' ? this.atStart(event) : event.type === 'step' ? this.afterStep(event) : undefined
    if (warning) this.followers.emit({ type: 'warning', step: event.step, message: warning })
  }

  close(): void {}

  /** A warning if, since this watch began, other programs have used cores that the run needs. */
  private atStart({ device, recipe, world_size: ranks = 1 }: StartEvent): string | undefined {
    if (device.type === 'cpu' && ranks === 1) this.threads = recipe.threads ?? this.options.threads ?? defaultThreads()
    const { threads } = this
    const others = this.othersCores()
    const free = Math.max(1, Math.floor(this.cores - others + 0.25))
    if (threads === undefined || others + threads <= this.cores + 0.5 || free >= threads) return undefined
    return (
      `other programs keep ${others.toFixed(1)} of ${this.cores} cores busy, and this run computes with ${threads} threads: ` +
      `--threads ${free} is often faster until they end`
    )
  }

  /** A single warning when steps have become much slower than the first ones. */
  private afterStep({ tokens_per_second: tokensPerSecond }: StepEvent): string | undefined {
    if (this.rates.length < baselineSteps) {
      this.rates.push(tokensPerSecond)
      return undefined
    }
    const usual = median(this.rates)
    if (tokensPerSecond > usual / slowFactor) {
      this.slow = []
      return undefined
    }
    if (this.slow.length === 0) this.before = this.read()
    this.slow.push(tokensPerSecond)
    if (this.slow.length < slowSteps || this.isWarned) return undefined
    this.isWarned = true
    const now = median(this.slow)
    return (
      `steps have become ${(usual / now).toFixed(1)} times slower, ${formatCount(now)} tok/s after ${formatCount(usual)}: ` +
      this.advice()
    )
  }

  private advice(): string {
    const { threads } = this
    const others = this.othersCores()
    const free = Math.max(1, Math.floor(this.cores - others + 0.25))
    if (threads === undefined || others < 0.5) return 'look for other programs on this machine or its GPU'
    const restart = free < threads ? `, or stop with Ctrl-C and go on with --resume auto --threads ${free}` : ''
    return `other programs keep ${others.toFixed(1)} of ${this.cores} cores busy; wait for them${restart}`
  }

  /** Cores that other programs have kept busy since the last call. */
  private othersCores(): number {
    const { before } = this
    const now = this.read()
    const wall = now.wall - before.wall
    if (wall < shortest) return 0
    this.before = now
    return Math.min(this.cores, Math.max(0, (now.all - before.all - (now.own - before.own)) / wall))
  }
}

const defaultThreads = () => Number(process.env.OMP_NUM_THREADS) || os.availableParallelism()

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)]
}
