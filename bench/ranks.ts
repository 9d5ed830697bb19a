/** Sharded training: its speed, the overlapped share of communication, and the estimates of a plan for it. */
import type { Instance } from '#lib/data/instances.js'
import { formatNumber } from '#lib/format.js'
import { parseConfig } from '#lib/model/config.js'
import { completeHardware, gpus, type Hardware } from '#lib/plan/hardware.js'
import { type Plan, planRun } from '#lib/plan/plan.js'
import { recipeSchema } from '#lib/train/recipe-schema.js'
import { models, ranks as work } from './configs.js'
import { median, ours, type RunOptions } from './contest.js'
import { deviceName, openBenchDevice } from './device.js'
import { type Presentation, percent } from './report.js'
import { rankCounts, Team } from './team.js'

const { model, batch, length, maxTokens, steps } = work
const config = models[model]

/** The measurements of a rank (ours/ranks.ts). */
type Timed = 'steps' | 'computation' | 'communication'

export interface RankScore {
  ranks: number
  stage: number
  /** Medians of the slowest rank: of a step, of a step without communication, and of the communication only. */
  seconds: Record<Timed, number>
  /** The estimates of a plan with the rates of the same run. */
  planned: Plan
}

/** The rates of a team in the form of a plan, from repeated measurements of all ranks. */
function hardwareFrom(answers: Record<string, unknown>[]): Hardware {
  const { name, totalMemory: memory } = openBenchDevice().properties
  const [first] = answers
  const rates = Object.fromEntries(
    Object.keys(first).map((key) => [key, median(answers.map((answer) => answer[key] as number))]),
  )
  const assumed: Partial<Hardware> =
    deviceName === 'cuda'
      ? gpus.h100
      : // One process has no communication, and the processes of one machine have no network.
        { link_bandwidth: 1e12, network_bandwidth: 1e12, collective_seconds: 0, link_seconds: 0, network_seconds: 0 }
  return completeHardware({
    ...assumed,
    reserved: 0,
    host_link_bandwidth: 1e12,
    host_bandwidth: 1e12,
    shared_cores: deviceName === 'cpu',
    call_seconds: 1e-6,
    ...rates,
    peak_flops: rates.matmul_flops,
    name,
    memory,
  })
}

/** With the lengths of the benchmark, all tokens labeled. */
const instances = Array.from(
  { length: batch },
  (_, id): Instance => ({ id, inputIds: new Int32Array(length), labels: new Int32Array(length) }),
)

async function measure(
  ranks: number,
  stage: number,
  { repetitions }: RunOptions,
  progress: (what: string) => void,
): Promise<{ score: RankScore; hardware: Hardware }> {
  const what = `${ranks} ranks, stage ${stage}`
  progress(`${what} warm up`)
  const team = await Team.start('training', ranks, (member) =>
    ours('ranks', { ...member, stage, config, batch, length, maxTokens, steps }),
  )
  try {
    const taken: Record<Timed, number[]> = { steps: [], communication: [], computation: [] }
    const rates: Record<string, unknown>[] = []
    for (let repetition = 1; repetition <= repetitions; repetition++) {
      for (const name of ['steps', 'communication', 'computation'] as const) {
        progress(`${what}: ${name}, repetition ${repetition} of ${repetitions}`)
        const answers = await team.run(name)
        taken[name].push(Math.max(...answers.map(({ seconds }) => seconds as number)))
      }
      progress(`${what}: rates, repetition ${repetition} of ${repetitions}`)
      rates.push(...(await team.run('rates')))
    }
    const hardware = hardwareFrom(rates)
    const recipe = { batch_size: batch, epochs: 2, max_tokens_per_micro_batch: maxTokens, zero_stage: stage }
    const planned = await planRun({
      recipe: recipeSchema.parse({ ...recipe, loss_reduction: 'token' }),
      config: parseConfig(config),
      instances,
      hardware,
      device: deviceName === 'cuda' ? 'cuda' : 'cpu',
      dtype: 'bfloat16',
      ranks,
      nodes: 1,
    })
    const seconds = Object.fromEntries(
      Object.entries(taken).map(([name, values]) => [name, median(values)]),
    ) as RankScore['seconds']
    return { score: { ranks, stage, seconds, planned }, hardware }
  } finally {
    team.kill()
  }
}

/** @returns the scores, and the rates of the first group with more than one rank, or otherwise of the only one */
export async function ranksBenchmark(
  options: RunOptions,
  progress: (what: string) => void,
): Promise<{ scores: RankScore[]; hardware?: Hardware }> {
  const scores: RankScore[] = []
  let hardware: Hardware | undefined
  for (const ranks of rankCounts()) {
    for (const stage of ranks === 1 ? [0] : [0, 3]) {
      const measured = await measure(ranks, stage, options, progress)
      scores.push(measured.score)
      if (hardware === undefined || scores.length === 2) hardware = measured.hardware
    }
  }
  return { scores, hardware }
}

/** The share of the communication's separate time that does not lengthen a step. */
function hidden({ seconds: { steps, computation, communication } }: RankScore): string {
  if (communication === 0) return ''
  return percent(Math.min(1, Math.max(0, 1 - (steps - computation) / communication)))
}

export function presentRanks(scores: RankScore[]): Presentation {
  const ms = (value: number) => formatNumber(Number((1000 * value).toPrecision(4)))
  const rows = scores.map((score) => {
    const { ranks, stage, seconds, planned } = score
    return [
      ranks === 1 ? '1 rank' : `${ranks} ranks, stage ${stage}`,
      formatNumber((batch * length) / seconds.steps),
      ms(seconds.steps),
      ms(seconds.computation),
      ranks === 1 ? '' : ms(seconds.communication),
      hidden(score),
      ms(planned.step.total),
      percent(planned.step.total / seconds.steps),
    ]
  })
  const header = ['', 'tokens/s', 'step ms', 'without comm.', 'comm. alone', 'hidden', 'planned ms', 'of the step']
  return {
    title: `training shared among ranks, ${model} parameters, ${batch} × ${length} tokens a step, bfloat16`,
    header,
    rows,
    notes: deviceName === 'cpu' ? ['The ranks share the cores of this machine: more of them are not faster.'] : [],
    ratios: { peer: [], limit: [] },
    chart: {
      unit: 'tokens/s',
      scale: 'linear',
      bars: rows.map(([label, rate], i) => {
        return { label, value: (batch * length) / scores[i].seconds.steps, text: rate, isOurs: true }
      }),
    },
  }
}
