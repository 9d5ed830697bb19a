import { forError, formatBytes, formatCount, forTerminal } from '../../format.js'
import { inspect } from '../../tools/inspect.js'
import type { InspectedTensor, Inspection } from '../../tools/inspection.js'
import { paint, printResult } from '../terminal.js'

/** The flags of `inspect`, spelled as on the command line. */
export interface InspectFlags {
  json?: boolean
  quick?: boolean
  tensors?: boolean
}

/** Shows the contents of a file or directory. Returns the exit code: 0 without problems, else 1. */
export async function runInspect(where: string, { json, quick, tensors }: InspectFlags): Promise<number> {
  const inspection = await inspect(where, { checksums: !quick })
  printResult(inspection, json, () => describe(inspection, { tensors, quick }))
  return inspection.whole ? 0 : 1
}

function describe(inspection: Inspection, flags: InspectFlags): string {
  const { kind, tensors, files, config, tokenizer, training, gguf } = inspection
  const types = Object.entries(inspection.dtypes).map(([dtype, count]) => `${formatCount(count)} ${dtype}`)
  const onDisk = files.reduce((sum, { bytes }) => sum + bytes, 0)
  const tied = tensors.filter(({ sameAs }) => sameAs !== undefined)
  const step = [training?.form, training?.step === undefined ? undefined : `step ${training.step}`]
    .flatMap((part) => (part === undefined ? [] : [`${part}, `]))
    .join('')
  const lines = [
    `${paint(process.stdout, 'bold', inspection.path)}: ${kind}`,
    ...(training ? [`  training    ${step}${training.ranks} ${training.ranks === 1 ? 'rank' : 'ranks'}`] : []),
    `  files       ${files.length === 1 ? files[0]!.name : `${files.length} files`}, ${formatBytes(onDisk)}`,
    `  tensors     ${tensors.length}, ${formatBytes(inspection.bytes)}${tied.length > 0 ? `, ${tied.length} tied` : ''}`,
    `  parameters  ${formatCount(inspection.parameters)}${types.length > 0 ? ` (${types.join(', ')})` : ''}`,
    ...(gguf ? [`  format      ${describeGguf(gguf)}`] : []),
    ...(config ? [`  config      ${describeConfig(config)}`] : []),
    ...(tokenizer ? [`  tokenizer   ${describeTokenizer(tokenizer)}`] : []),
    `  checksums   ${describeChecksums(inspection, flags)}`,
  ]
  if (flags.tensors) lines.push(...tensors.map(describeTensor))
  const whole = paint(
    process.stdout,
    inspection.whole ? 'green' : 'red',
    inspection.whole ? 'complete' : 'damaged or incomplete',
  )
  lines.push(`  ${whole}`, ...inspection.problems.map((problem) => `    ${sentence(problem)}`))
  lines.push(...inspection.notes.map((note) => `  note: ${sentence(note)}`))
  return lines.join('\n')
}

function describeGguf({ version, architecture, metadata }: NonNullable<Inspection['gguf']>): string {
  const name = typeof metadata['general.name'] === 'string' ? `, "${metadata['general.name']}"` : ''
  return forError(`version ${version}, architecture ${architecture}${name}`)
}

function describeTokenizer({ file, vocabSize, model }: NonNullable<Inspection['tokenizer']>): string {
  return forError(`${model === undefined ? file : `built in, type "${model}"`}, ${vocabSize} tokens`)
}

function describeConfig(config: NonNullable<Inspection['config']>): string {
  const { architectures, num_hidden_layers, hidden_size, num_attention_heads, vocab_size } = config
  return (
    `${architectures?.[0] ?? config.model_type ?? 'LLaMA'}, ${num_hidden_layers} layers, hidden size ${hidden_size}, ` +
    `${num_attention_heads} heads, vocabulary ${vocab_size}`
  )
}

function describeChecksums({ checksums, whole }: Inspection, { quick }: InspectFlags): string {
  if (checksums === null) return quick ? 'skipped (--quick)' : 'none in this format'
  return whole ? `${checksums}, all match` : checksums
}

function describeTensor({ name, dtype, shape, bytes, sameAs }: InspectedTensor): string {
  const tie = sameAs === undefined ? '' : `, tied to ${forError(sameAs)}`
  return `    ${forError(name)}  ${dtype} [${shape.join(', ')}]  ${formatBytes(bytes)}${tie}`
}

/** On one line without truncation, as it may end with a command. */
function sentence(text: string): string {
  return forTerminal(text).replace(/[\n\t]/g, ' ')
}
