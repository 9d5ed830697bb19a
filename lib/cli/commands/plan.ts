import { existsSync } from 'node:fs'
import { buildInstances, type Instance } from '../../data/instances.js'
import { splitValidation } from '../../data/order.js'
import { openDevice } from '../../device.js'
import { formatBytes, formatCount, formatDuration, formatNumber, formatPercent } from '../../format.js'
import { type Advice, adviceFor } from '../../plan/advice.js'
import { completeHardware, gpus, type Hardware, readMeasured } from '../../plan/hardware.js'
import { dollyInstances, estimatedInstances } from '../../plan/instances.js'
import { planConfig } from '../../plan/model-config.js'
import { memoryKinds, type Plan, type PlanOptions, planRun } from '../../plan/plan.js'
import { LlamaTokenizer } from '../../tokenizer/tokenizer.js'
import { withMaxLength } from '../../train/recipe.js'
import type { Recipe, SizedRecipe } from '../../train/recipe-schema.js'
import { UsageError } from '../failure.js'
import { paint, printNotes, printResult } from '../terminal.js'
import { readData } from './train.js'

/**
 * The flags of `plan` in addition to the recipe's, spelled as on the command line; rates in 10⁹ bytes and 10¹²
 * operations.
 */
export interface PlanFlags {
  nodes: number
  config?: string
  instances?: number
  gpu: keyof typeof gpus
  measured?: string
  gpu_memory?: number
  matmul_rate?: number
  attention_rate?: number
  memory_bandwidth?: number
  link_bandwidth?: number
  network_bandwidth?: number
  json?: boolean
}

/** Shows the estimated cost of a run. Returns the exit code: 0 if it fits into memory, else 1. */
export async function runPlan(asked: Recipe, flags: PlanFlags): Promise<number> {
  const { nodes } = flags
  const device = asked.device === 'cpu' || asked.ranks !== undefined ? 'cpu' : 'cuda'
  const ranks = asked.ranks ?? asked.gpus ?? 1
  if (ranks % nodes !== 0) throw new UsageError(`${ranks} ranks cannot be divided evenly among ${nodes} machines`)
  const hardware = hardwareOf(flags, device)
  const { name, config } = await planConfig(asked, flags.config)
  const recipe = withMaxLength(asked, config.maxPositionEmbeddings)
  const { instances, source } = await instancesOf(recipe, flags.instances)
  const { train } = splitValidation(instances.length, recipe.validation_size, recipe.seed)
  const dtype =
    recipe.dtype !== 'auto' ? recipe.dtype : device === 'cuda' ? 'bfloat16' : openDevice('cpu').preferredDType
  const options: PlanOptions = {
    recipe,
    config,
    instances: Array.from(train, (index) => instances[index]),
    hardware,
    device,
    dtype,
    ranks,
    nodes,
  }
  const plan = await planRun(options)
  const advice = plan.memory.fits ? [] : await adviceFor(options)
  const result = { model: name, data: source, hardware, ...plan, advice }
  printResult(result, flags.json, () => describe(name, source, hardware, plan, advice))
  return plan.memory.fits ? 0 : 1
}

function hardwareOf(flags: PlanFlags, device: 'cpu' | 'cuda'): Hardware {
  const given = {
    memory: scaled(flags.gpu_memory, 1e9),
    matmul_flops: scaled(flags.matmul_rate, 1e12),
    attention_flops: scaled(flags.attention_rate, 1e12),
    memory_bandwidth: scaled(flags.memory_bandwidth, 1e9),
    link_bandwidth: scaled(flags.link_bandwidth, 1e9),
    network_bandwidth: scaled(flags.network_bandwidth, 1e9),
  }
  const values = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  const measured = flags.measured === undefined ? {} : readMeasured(flags.measured)
  return completeHardware({ ...(device === 'cuda' ? gpus[flags.gpu] : {}), ...measured, ...values })
}

const scaled = (value: number | undefined, unit: number) => (value === undefined ? undefined : value * unit)

/** Counted if data and tokenizer are available, else estimated. */
async function instancesOf(recipe: SizedRecipe, count?: number): Promise<{ instances: Instance[]; source: string }> {
  const { data_path, dataset, max_length } = recipe
  if (data_path === undefined && dataset === undefined) {
    const instances = dollyInstances(max_length, count)
    return { instances, source: `${instances.length} instances as long as those of databricks-dolly-15k (estimated)` }
  }
  const { train, notes } = await readData(recipe)
  printNotes(notes.lines())
  const rows = train.slice(0, count)
  const where = recipe.tokenizer_path ?? recipe.model_path
  if (where === undefined || !existsSync(where)) {
    const instances = estimatedInstances(rows, max_length)
    return {
      instances,
      source: `${instances.length} instances, assuming four characters per token (no tokenizer found)`,
    }
  }
  const tokenizer = await LlamaTokenizer.fromPretrained(where)
  const { instances, truncated } = await buildInstances(rows, tokenizer, max_length)
  const cut = truncated > 0 ? `, ${truncated} cut at ${max_length} tokens` : ''
  return { instances, source: `${instances.length} instances${cut}` }
}

const heading = (text: string) => paint(process.stdout, 'bold', text)
const seconds = (value: number) =>
  value < 1 ? `${formatNumber(Number((1000 * value).toPrecision(3)))} ms` : formatDuration(value)

function describe(name: string, source: string, hardware: Hardware, plan: Plan, advice: Advice[]): string {
  const { ranks, nodes, batch, step, run, traffic, memory } = plan
  const machines = nodes === 1 ? '' : ` on ${nodes} machines`
  const who = ranks === 1 ? 'one process' : `stage ${plan.zero_stage}, ${ranks} ranks${machines}`
  const sent = Object.values(traffic).reduce((sum, one) => sum + one.sent, 0)
  const communication = [
    `    communication ${seconds(step.communication)}, ${formatBytes(Math.round(sent))} sent by each rank`,
    ...Object.entries(traffic).map(
      ([kind, { calls, bytes }]) =>
        `      ${kind.padEnd(15)} ${formatNumber(Math.round(calls))} × ${formatBytes(Math.round(bytes / calls))}`,
    ),
    `      hidden          ${seconds(step.hidden)} (${formatPercent(step.hidden / step.communication)})`,
    `      exposed         ${seconds(step.exposed)}`,
  ]
  const micro = `${formatNumber(batch.micro_batches)} micro-${batch.micro_batches === 1 ? 'batch' : 'batches'} per rank`
  return [
    heading(`${name}, ${formatCount(plan.parameters)} parameters, ${plan.dtype}, ${who}`),
    `  ${hardware.name}; ${source}`,
    '',
    heading('Memory per rank'),
    ...[...Object.entries(memoryKinds), ['reserved', 'reserved'] as const]
      .map(([kind, says]) => [says, memory[kind as keyof typeof memoryKinds | 'reserved']] as const)
      .filter(([, bytes]) => bytes > 0)
      .map(([says, bytes]) => `  ${says.padEnd(20)} ${formatBytes(bytes).padStart(12)}`),
    `  ${'total'.padEnd(20)} ${formatBytes(memory.total).padStart(12)} of ${formatBytes(memory.capacity)}: ${verdict(memory.fits)}`,
    ...(memory.host > 0
      ? [`  and in the CPU memory of each machine ${formatBytes((memory.host * ranks) / nodes)}`]
      : []),
    ...(memory.fits ? [] : advice.map(({ flags, total }) => `    ${flags} would fit, using ${formatBytes(total)}`)),
    ...(memory.fits || advice.length > 0
      ? []
      : ['    it does not fit with any number of ranks or any micro-batch size']),
    '',
    heading(
      `A step: ${batch.instances} instances, ${formatNumber(Math.round(batch.tokens))} tokens, ${micro} of at most ${batch.max_tokens} tokens`,
    ),
    `  ${'time'.padEnd(20)} ${seconds(step.total)}`,
    `    computation   ${seconds(step.compute)}`,
    ...(ranks > 1 ? communication : []),
    ...(step.offload > 0 ? [`    on the CPU    ${seconds(step.offload)}`] : []),
    `    idle          ${seconds(step.idle)}`,
    `  ${'tokens/s'.padEnd(20)} ${formatNumber(Math.round(plan.tokens_per_second))}, ${formatNumber(Math.round(plan.tokens_per_second / ranks))} per rank`,
    `  ${'of the peak'.padEnd(20)} ${formatPercent(plan.utilization)}`,
    '',
    heading(`The run: ${run.steps} steps, ${formatDuration(run.seconds)}`),
    '  excluding validation, samples, and checkpoints',
  ].join('\n')
}

const verdict = (fits: boolean) => paint(process.stdout, fits ? 'green' : 'red', fits ? 'fits' : 'does not fit')
