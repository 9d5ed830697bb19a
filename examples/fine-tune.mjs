// Fine-tunes a model on a list of instructions, and saves it.
//
//   npm install openalpaca-native (in a clone, npm run setup)
//   node examples/fine-tune.mjs MODEL_DIRECTORY INSTRUCTIONS.json OUTPUT_DIRECTORY
import { LlamaForCausalLM, LlamaTokenizer, Trainer } from 'openalpaca-native'

const [directory, dataPath, output] = process.argv.slice(2)
if (!output) {
  console.error('usage: node examples/fine-tune.mjs MODEL_DIRECTORY INSTRUCTIONS.json OUTPUT_DIRECTORY')
  process.exit(2)
}

const tokenizer = await LlamaTokenizer.fromPretrained(directory)
// The float32 copy lets training start from the file's full precision.
const model = await LlamaForCausalLM.fromPretrained(directory, { masterWeights: true })
const trainer = new Trainer({
  model,
  tokenizer,
  dataPath,
  maxLength: Math.min(1024, model.config.maxPositionEmbeddings),
  batchSize: 8,
  epochs: 1,
  learningRate: 2e-5,
})
const stop = new AbortController()
process.once('SIGINT', () => stop.abort())
const { steps, loss, reason } = await trainer.train({
  signal: stop.signal,
  onStep: ({ step, total_steps, loss }) => console.log(`${step}/${total_steps}  loss ${loss.toFixed(4)}`),
})
console.log(`${reason} after ${steps} steps, loss ${loss.toFixed(4)}`)
await model.savePretrained(output, { tokenizer })
model.dispose()
