import { processDataset } from '../../data/process-dataset.js'
import { withByteProgress } from '../byte-progress.js'
import { stoppable } from '../signals.js'
import { printResult } from '../terminal.js'

/** The flags of `process-dataset`, spelled as on the command line. */
export interface ProcessDatasetFlags {
  input: string
  output: string
  max_words: number
  json?: boolean
}

/** Converts a data set and says how much of it was kept; Ctrl-C ends it before the output appears. Returns the exit code. */
export function runProcessDataset(flags: ProcessDatasetFlags): Promise<number> {
  const { input, output, max_words: maxWords, json } = flags
  const convert = async (signal: AbortSignal) => {
    const result = await withByteProgress(`downloading ${input}`, (onDownload) =>
      processDataset({ input, output, maxWords, onDownload, signal }),
    )
    const rest = result.leftOut > 0 ? `; ${result.leftOut} with more than ${maxWords} words left out` : ''
    printResult({ output, ...result }, json, () => `${result.written} instances written to ${output}${rest}`)
  }
  return stoppable(convert, 'stopped; nothing was written')
}
