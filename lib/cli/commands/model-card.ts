import { join } from 'node:path'
import { OpenAlpacaError } from '../../errors.js'
import { writeModelCard } from '../../train/model-card.js'

/** The flags of `model-card`, spelled as on the command line. */
export interface ModelCardFlags {
  model_path: string
  log_path?: string
  license?: string
  datasets?: string[]
  languages?: string[]
  base_model?: string
  name?: string
}

/** Writes the model card of a model directory. Returns the exit code. */
export async function modelCard(flags: ModelCardFlags): Promise<number> {
  const { model_path: directory, log_path: logPath, base_model: baseModel, ...options } = flags
  const file = join(directory, 'README.md')
  if (!(await writeModelCard(directory, { ...options, logPath, baseModel }))) {
    throw new OpenAlpacaError(
      'CARD_KEPT',
      `${file} was written or changed by someone else: move it away to have a new one`,
    )
  }
  console.log(`model card: ${file}`)
  return 0
}
