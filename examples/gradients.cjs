// The loss of a sequence, and the norm of every parameter's gradient, from CommonJS.
//
//   npm install openalpaca-native (in a clone, npm run setup)
//   node examples/gradients.cjs MODEL_DIRECTORY
const { LlamaForCausalLM, LlamaTokenizer } = require('openalpaca-native')

/** The Euclidean norm. */
function norm(values) {
  let squares = 0
  for (const value of values) squares += value * value
  return Math.sqrt(squares)
}

async function main(directory) {
  if (!directory) throw new Error('usage: node examples/gradients.cjs MODEL_DIRECTORY')
  const tokenizer = await LlamaTokenizer.fromPretrained(directory)
  const model = await LlamaForCausalLM.fromPretrained(directory, { dtype: 'float32' })
  const ids = tokenizer.encode('The alpaca is a small grazing animal.')
  const { loss, gradients } = await model.lossAndGradients([ids], [ids], { lossReduction: 'token' })
  console.log(`loss ${loss.toFixed(4)}`)
  for (const [name, gradient] of gradients) console.log(name, norm(gradient).toExponential(2))
  model.dispose()
}

main(process.argv[2]).catch((error) => {
  console.error(error.message)
  process.exitCode = 1
})
