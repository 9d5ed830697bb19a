// Answers an instruction, token by token.
//
//   npm install openalpaca-native (in a clone, npm run setup)
//   node examples/generate.mjs MODEL_DIRECTORY "Name three colours."
import { encodePrompt, LlamaForCausalLM, LlamaTokenizer } from 'openalpaca-native'

const [directory, instruction] = process.argv.slice(2)
if (!instruction) {
  console.error('usage: node examples/generate.mjs MODEL_DIRECTORY INSTRUCTION')
  process.exit(2)
}

const tokenizer = await LlamaTokenizer.fromPretrained(directory)
const model = await LlamaForCausalLM.fromPretrained(directory)
const stop = new AbortController()
process.once('SIGINT', () => stop.abort())

const prompt = encodePrompt(tokenizer, { instruction })
const text = tokenizer.createDecodeStream()
const options = { doSample: true, topK: 50, topP: 0.9, tokenizer, signal: stop.signal }
try {
  for await (const id of model.stream(prompt, options)) process.stdout.write(text.push(id))
} catch (error) {
  if (!stop.signal.aborted) throw error // Ctrl-C ends the answer
}
process.stdout.write(`${text.flush()}\n`)
model.dispose()
