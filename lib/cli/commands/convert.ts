import { existsSync } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { formatBytes } from '../../format.js'
import { type ConvertDType, type ConvertOptions, convertModel } from '../../tools/convert.js'
import { withByteProgress } from '../byte-progress.js'
import { UsageError } from '../failure.js'
import { hubTitle, modelDirectory } from '../model-path.js'
import { stoppable } from '../signals.js'
import { printResult, printWarnings } from '../terminal.js'

/** The flags of `convert`, spelled as on the command line. */
export interface ConvertFlags {
  model_path: string
  output: string
  to: ConvertOptions['to']
  dtype?: ConvertDType
  max_shard_size?: string
  strict?: boolean
  name?: string
  overwrite?: boolean
  json?: boolean
}

/** Writes a model in another format or dtype; Ctrl-C removes partial output. Returns the exit code. */
export async function convert(flags: ConvertFlags): Promise<number> {
  const { model_path: modelPath, output, to, dtype, strict, max_shard_size: maxShardSize } = flags
  if (to !== 'gguf' && dtype === 'q8_0') {
    throw new UsageError(`--dtype q8_0 is only available with --to gguf; for ${to}, use float32, float16, or bfloat16`)
  }
  checkOutput(flags)
  const write = async (signal: AbortSignal) => {
    const directory = await modelDirectory(modelPath, { signal })
    const name = flags.name ?? (directory === modelPath ? undefined : hubTitle(modelPath))
    const { warnings, ...lost } = await withByteProgress('converting', (onProgress) =>
      convertModel(directory, output, { to, dtype, strict, name, maxShardSize, onProgress, signal }),
    )
    printWarnings(warnings)
    const bytes = await sizeOf(output)
    const result = { output, format: to, bytes, ...lost, warnings }
    printResult(result, flags.json, () => `${to} written to ${output} (${formatBytes(bytes)})`)
  }
  return await stoppable(write, 'stopped; nothing was changed')
}

/** @throws {UsageError} for an unexpected output: its name, its place, or an existing file */
function checkOutput({ output, to, overwrite }: ConvertFlags): void {
  const isGguf = /\.gguf$/i.test(output)
  if (to === 'gguf' && !isGguf) {
    throw new UsageError(
      `--output ${output} does not end in .gguf: name a .gguf file, or add --to safetensors for a directory`,
    )
  }
  if (to !== 'gguf') {
    if (isGguf) throw new UsageError(`--to ${to} writes a directory: leave out --to for ${output}, or name a directory`)
    return // makeShards checks that it is new
  }
  const parent = path.dirname(path.resolve(output))
  if (!existsSync(parent))
    throw new UsageError(`there is no directory ${parent} for --output: make it, or name another`)
  if (existsSync(output) && !overwrite) {
    throw new UsageError(`${output} exists: add --overwrite to replace it, or name another file`)
  }
}

/** Bytes of a file, or of the files in a directory. */
async function sizeOf(output: string): Promise<number> {
  const stats = await stat(output)
  if (!stats.isDirectory()) return stats.size
  const sizes = (await readdir(output)).map(async (name) => (await stat(path.join(output, name))).size)
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}
