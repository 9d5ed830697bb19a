import { formatBytes } from '../../format.js'
import type { CastDType } from '../../formats/cast.js'
import { parseSize, type WeightFormat } from '../../formats/shards.js'
import { type ConvertedWeights, makeShards } from '../../tools/make-shards.js'
import { zeroToFp32 } from '../../tools/zero-to-fp32.js'
import { UsageError } from '../failure.js'
import { hubTitle, modelDirectory } from '../model-path.js'
import { stoppable } from '../signals.js'
import { printResult, printWarnings } from '../terminal.js'

/** The flags of `make-shards`, spelled as on the command line. */
export interface MakeShardsFlags {
  model_path: string
  max_shard_size: string
  format?: WeightFormat
  dtype?: CastDType
  strict?: boolean
  output?: string
  replace?: boolean
  json?: boolean
}

/** The flags of `zero-to-fp32`. */
export interface ZeroToFp32Flags {
  model_path?: string
  max_shard_size: string
  format?: WeightFormat
  dtype: CastDType
  strict?: boolean
  json?: boolean
}

/** Splits a model's weights. Returns the exit code. */
export function runMakeShards(flags: MakeShardsFlags): Promise<number> {
  const { model_path: modelPath, output, replace, format, dtype, strict } = flags
  if (replace && output !== undefined) {
    throw new UsageError('--replace puts the shards into --model_path itself: leave out --output, or --replace')
  }
  const maxShardSize = shardSize(flags.max_shard_size)
  return convert(flags.json, async (signal) => {
    const directory = await modelDirectory(modelPath, { signal })
    const isOnHub = directory !== modelPath // never change the cache
    if (isOnHub && replace) throw new UsageError(`--replace is for a directory, and ${modelPath} is a model on the Hub`)
    const target = output ?? (isOnHub ? `${hubTitle(modelPath)}-shards` : undefined)
    return makeShards({ modelPath: directory, output: target, replace, format, dtype, strict, maxShardSize, signal })
  })
}

/** Assembles a sharded training checkpoint. Returns the exit code. */
export function runZeroToFp32(checkpoint: string, output: string, flags: ZeroToFp32Flags): Promise<number> {
  const { model_path: modelPath, format, dtype, strict } = flags
  const maxShardSize = shardSize(flags.max_shard_size)
  return convert(flags.json, (signal) =>
    zeroToFp32({ checkpoint, output, modelPath, format, dtype, strict, maxShardSize, signal }),
  )
}

function shardSize(text: string): number {
  try {
    return parseSize(text)
  } catch (cause) {
    throw new UsageError(`--max_shard_size: ${(cause as Error).message}`, { cause })
  }
}

/** On Ctrl-C, removes partial output and ends with its exit code. */
function convert(json: boolean | undefined, task: (signal: AbortSignal) => Promise<ConvertedWeights>): Promise<number> {
  return stoppable(async (signal) => report(await task(signal), json), 'stopped; nothing was changed')
}

function report(converted: ConvertedWeights, json: boolean | undefined): void {
  printResult(converted, json, () => describe(converted))
  printWarnings(converted.warnings)
}

function describe({ output, files, totalSize, renaming }: ConvertedWeights): string {
  const what = files.length === 1 ? files[0]!.name : `${files.length} shards and their index`
  const written = `${output}: ${what}, ${formatBytes(totalSize)}, read back and compared`
  return renaming === undefined ? written : `${written}\n${renaming}`
}
