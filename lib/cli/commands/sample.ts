import { formatPrompt } from '../../data/prompt.js'
import { type DeviceType, openDevice } from '../../device.js'
import { printable } from '../../format.js'
import { StopStrings } from '../../generate/stop-strings.js'
import { LlamaForCausalLM } from '../../model/llama.js'
import type { ModelDType } from '../../model/parameters.js'
import { LlamaTokenizer } from '../../tokenizer/tokenizer.js'
import { UsageError } from '../failure.js'
import { modelDirectory } from '../model-path.js'
import { StopRequest } from '../signals.js'

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
  device: DeviceType | 'auto'
  dtype: ModelDType | 'auto'
  threads?: number
}

/** Prints one answer as it comes; Ctrl-C ends it. Returns the exit code. */
export async function sample(flags: SampleFlags): Promise<number> {
  using stop = new StopRequest(() => {})
  const directory = await modelDirectory(flags.model_path, { signal: stop.signal })
  const tokenizer = await LlamaTokenizer.fromPretrained(directory)
  const { device, dtype } = flags
  const opened = openDevice(device)
  if (flags.threads) opened.setThreads(flags.threads)
  using model = await LlamaForCausalLM.fromPretrained(directory, { device: opened, dtype })
  const prompt = flags.raw_prompt ? flags.instruction : formatPrompt(flags)
  const ids = tokenizer.encode(prompt)
  const context = model.config.maxPositionEmbeddings
  if (ids.length >= context) {
    throw new UsageError(`the prompt has ${ids.length} tokens and the model a context of ${context}: shorten it`)
  }
  const answer = model.stream(ids, {
    maxNewTokens: Math.min(flags.generate_len, context - ids.length),
    doSample: !flags.greedy,
    topK: flags.top_k,
    topP: flags.top_p,
    temperature: flags.temperature,
    repetitionPenalty: flags.repetition_penalty,
    seed: flags.seed,
    signal: stop.signal,
  })
  await print(answer, tokenizer, flags.stop ?? [])
  return stop.exitCode ?? 0
}

async function print(answer: AsyncIterable<number>, tokenizer: LlamaTokenizer, stop: string[]): Promise<void> {
  const { stdout } = process
  const write = (text: string) => stdout.write(stdout.isTTY ? printable(text) : text)
  const text = tokenizer.createDecodeStream()
  const untilStop = new StopStrings(stop)
  for await (const id of answer) {
    write(untilStop.push(text.push(id)))
    if (untilStop.stopped) break
  }
  write(untilStop.push(text.flush()) + untilStop.flush())
  stdout.write('\n')
}
