import { join } from 'node:path'
import { OpenAlpacaError } from '../../errors.js'
import { writeModelCard } from '../../tools/model-card.js'
import { stoppable } from '../signals.js'
import { printResult } from '../terminal.js'

/** The flags of `model-card`, spelled as on the command line. */
export interface ModelCardFlags {
  model_path: string
  log_path?: string
  license?: string
  datasets?: string[]
  languages?: string[]
  base_model?: string
  name?: string
  json?: boolean
}

/** Writes the model card of a model directory; Ctrl-C waits for it. Returns the exit code. */
export function modelCard(flags: ModelCardFlags): Promise<number> {
  const { model_path: directory, log_path: logPath, base_model: baseModel, json, ...options } = flags
  const file = join(directory, 'README.md')
  return stoppable(async () => {
    if (!(await writeModelCard(directory, { ...options, logPath, baseModel }))) {
      throw new OpenAlpacaError(
        'CARD_KEPT',
        `${file} was written or changed by someone else: move it away to write a new one`,
      )
    }
    printResult({ file }, json, () => `model card: ${file}`)
  })
}
