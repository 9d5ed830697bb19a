import { processDataset } from '../../data/process-dataset.js'
import { withByteProgress } from '../byte-progress.js'
import { stoppable } from '../signals.js'
import { printNotes, printResult } from '../terminal.js'

/** The flags of `process-dataset`, spelled as on the command line. */
export interface ProcessDatasetFlags {
  input: string
  output: string
  max_words: number
  json?: boolean
}

/**
 * Converts a data set and reports how much of it was kept; Ctrl-C ends it before the output appears. Returns the exit
 * code.
 */
export function runProcessDataset(flags: ProcessDatasetFlags): Promise<number> {
  const { input, output, max_words: maxWords, json } = flags
  const convert = async (signal: AbortSignal) => {
    const onNote = (note: string) => void process.stderr.write(`${note}\n`)
    const { notes, ...counts } = await withByteProgress(`downloading ${input}`, (onProgress) =>
      processDataset({ input, output, maxWords, hub: { onProgress, onNote }, signal }),
    )
    const { written, leftOut } = counts
    const rest = leftOut > 0 ? `; ${leftOut} with more than ${maxWords} words skipped` : ''
    const result = { output, ...counts, ...notes.toJSON() }
    printResult(result, json, () => `${written} instances written to ${output}${rest}`)
    if (!json) printNotes(notes.lines())
  }
  return stoppable(convert, 'stopped; nothing was written')
}
