import { LlamaForCausalLM } from '../../causal-lm.js'
import { encodePrompt } from '../../data/prompt.js'
import { type DeviceType, openDevice } from '../../device.js'
import { forTerminal } from '../../format.js'
import { StopStrings } from '../../generate/stop-strings.js'
import type { ModelDType } from '../../model/parameters.js'
import { unlistedEndToken } from '../../model/special-tokens.js'
import { LlamaTokenizer } from '../../tokenizer/tokenizer.js'
import { UsageError } from '../failure.js'
import { modelDirectory, runnableDirectory } from '../model-path.js'
import { stoppable } from '../signals.js'
import { printResult, printWarnings } from '../terminal.js'

/** The flags of `sample`, spelled as on the command line. */
export interface SampleFlags {
  model_path: string
  instruction: string
  input: string
  raw_prompt?: boolean
  generate_len: number
  top_k: number
  top_p: number
  temperature: number
  repetition_penalty: number
  greedy?: boolean
  seed?: number
  stop?: string[]
  json?: boolean
  device: DeviceType | 'auto'
  dtype: ModelDType | 'auto'
  threads?: number
}

/** Prints one answer as it is generated, or all of it as JSON; Ctrl-C ends it. Returns the exit code. */
export function sample(flags: SampleFlags): Promise<number> {
  return stoppable(async (signal) => answer(await withStandardInput(flags, signal), signal))
}

/** The flags with `-` replaced by the text of standard input. */
async function withStandardInput(flags: SampleFlags, signal: AbortSignal): Promise<SampleFlags> {
  const { instruction, input, raw_prompt: isRaw } = flags
  if (instruction === '-' && input === '-') {
    throw new UsageError('--instruction and --input cannot both be read from standard input: give one of them as text')
  }
  const read = async (value: string) => {
    if (value !== '-') return value
    const chunks: Buffer[] = []
    for await (const chunk of process.stdin) {
      signal.throwIfAborted()
      chunks.push(Buffer.from(chunk))
    }
    return Buffer.concat(chunks)
      .toString()
      .replace(/\r?\n$/, '')
  }
  const texts = { instruction: await read(instruction), input: await read(input) }
  if (!isRaw && texts.instruction.trim() === '') {
    throw new UsageError(
      'the instruction is empty: give it as --instruction TEXT, or as --instruction - on standard input',
    )
  }
  return { ...flags, ...texts }
}

async function answer(flags: SampleFlags, signal: AbortSignal): Promise<void> {
  const directory = await runnableDirectory(await modelDirectory(flags.model_path, { signal }))
  const tokenizer = await LlamaTokenizer.fromPretrained(directory)
  const { device, dtype } = flags
  const opened = openDevice(device)
  if (flags.threads) opened.setThreads(flags.threads)
  using model = await LlamaForCausalLM.fromPretrained(directory, {
    ...{ device: opened, dtype, signal },
    onWarning: (message) => printWarnings([message]),
  })
  if (!model.config.eosTokenIds.includes(tokenizer.eosTokenId)) {
    printWarnings([
      `${unlistedEndToken(model.config, tokenizer)}: answers of a model that was trained so go on past it`,
    ])
  }
  const ids = flags.raw_prompt ? tokenizer.encode(flags.instruction) : encodePrompt(tokenizer, flags)
  const context = model.config.maxPositionEmbeddings
  if (ids.length >= context) {
    throw new UsageError(`the prompt has ${ids.length} tokens and the model a context of ${context}: shorten it`)
  }
  const tokens = model.stream(ids, {
    maxNewTokens: Math.min(flags.generate_len, context - ids.length),
    doSample: !flags.greedy,
    topK: flags.top_k,
    topP: flags.top_p,
    temperature: flags.temperature,
    repetitionPenalty: flags.repetition_penalty,
    seed: flags.seed,
    tokenizer,
    signal,
  })
  const write = (text: string) => process.stdout.write(process.stdout.isTTY ? forTerminal(text) : text)
  const start = performance.now()
  let [text, count] = ['', 0]
  try {
    for await (const piece of pieces(tokens, tokenizer, flags.stop ?? [], () => count++)) {
      text += piece
      if (!flags.json) write(piece)
    }
  } catch (error) {
    if (!signal.aborted) throw error // the text before Ctrl-C is the answer
  }
  const seconds = (performance.now() - start) / 1000
  printResult({ text, prompt_tokens: ids.length, tokens: count, seconds }, flags.json, () => '')
}

/** The text of an answer as it is generated, up to a stop string. */
async function* pieces(
  answer: AsyncIterable<number>,
  tokenizer: LlamaTokenizer,
  stop: string[],
  onToken: () => void,
): AsyncGenerator<string> {
  const text = tokenizer.createDecodeStream()
  const untilStop = new StopStrings(stop)
  for await (const id of answer) {
    onToken()
    yield untilStop.push(text.push(id))
    if (untilStop.stopped) break
  }
  yield untilStop.push(text.flush()) + untilStop.flush()
}
