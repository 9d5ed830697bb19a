import { processDataset } from '../../data/process-dataset.js'
import { formatCount } from '../../format.js'

/** The flags of `process-dataset`, spelled as on the command line. */
export interface ProcessDatasetFlags {
  input: string
  output: string
  max_words: number
}

/** Converts a data set and says how much of it was kept. Returns the exit code. */
export async function runProcessDataset({ input, output, max_words: maxWords }: ProcessDatasetFlags): Promise<number> {
  const { stderr } = process
  const onDownload = (received: number, total: number) =>
    stderr.write(`\rdownloading ${input}: ${formatCount(received)} of ${formatCount(total)} bytes`)
  const { written, leftOut } = await processDataset({
    input,
    output,
    maxWords,
    onDownload: stderr.isTTY ? onDownload : undefined,
  })
  const rest = leftOut > 0 ? `; ${leftOut} with more than ${maxWords} words left out` : ''
  console.log(`${written} instances written to ${output}${rest}`)
  return 0
}
