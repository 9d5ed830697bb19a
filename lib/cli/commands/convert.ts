import { CONVERT_DTYPES, type ConvertOptions, convertModel } from '../../model/convert.js'
import { ByteProgress } from '../byte-progress.js'
import { UsageError } from '../failure.js'
import { modelDirectory } from '../model-path.js'

/** The flags of `convert`, spelled as on the command line. */
export interface ConvertFlags {
  model_path: string
  output: string
  to: ConvertOptions['to']
  dtype?: ConvertOptions['dtype']
  max_shard_size?: string
  name?: string
}

/** Writes a model in another format or dtype. Returns the exit code. */
export async function convert(flags: ConvertFlags): Promise<number> {
  const { model_path: modelPath, output, to, dtype, max_shard_size: maxShardSize } = flags
  if (to !== 'gguf' && dtype === 'q8_0') {
    const others = CONVERT_DTYPES.filter((other) => other !== 'q8_0').join(', ')
    throw new UsageError(`--dtype q8_0 is for --to gguf; ${to} takes ${others}`)
  }
  const directory = await modelDirectory(modelPath)
  // A snapshot in the cache is named by its commit.
  const name = flags.name ?? (directory === modelPath ? undefined : modelPath.split(/[/@]/)[1])
  const progress = new ByteProgress('converting')
  try {
    await convertModel(directory, output, { to, dtype, name, maxShardSize, onProgress: progress.update })
  } finally {
    progress.close()
  }
  console.log(`${to} written to ${output}`)
  return 0
}
