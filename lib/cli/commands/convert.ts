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
  json?: boolean
}

/** Writes a model in another format or dtype; Ctrl-C takes away what is half-written. Returns the exit code. */
export async function convert(flags: ConvertFlags): Promise<number> {
  const { model_path: modelPath, output, to, dtype, strict, max_shard_size: maxShardSize } = flags
  if (to !== 'gguf' && dtype === 'q8_0') {
    throw new UsageError(`--dtype q8_0 is only available with --to gguf; for ${to}, use float32, float16, or bfloat16`)
  }
  const write = async (signal: AbortSignal) => {
    const directory = await modelDirectory(modelPath, { signal })
    const name = flags.name ?? (directory === modelPath ? undefined : hubTitle(modelPath))
    const { warnings, ...lost } = await withByteProgress('converting', (onProgress) =>
      convertModel(directory, output, { to, dtype, strict, name, maxShardSize, onProgress, signal }),
    )
    printWarnings(warnings)
    printResult({ output, format: to, ...lost, warnings }, flags.json, () => `${to} written to ${output}`)
  }
  return await stoppable(write, 'stopped; nothing was changed')
}
