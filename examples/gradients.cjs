// The loss of a sequence and the gradient of every parameter, from CommonJS.
//
//   node examples/gradients.cjs MODEL_DIRECTORY
const { LlamaForCausalLM, LlamaTokenizer } = require('openalpaca-native')

async function main(directory) {
  const tokenizer = await LlamaTokenizer.fromPretrained(directory)
  const model = await LlamaForCausalLM.fromPretrained(directory, { dtype: 'float32' })
  const ids = tokenizer.encode('The alpaca is a small grazing animal.')
  const { loss, gradients } = await model.lossAndGradients([ids], [ids], { lossReduction: 'token' })
  console.log(`loss ${loss.toFixed(4)}`)
  for (const [name, gradient] of gradients) console.log(name, Math.hypot(...gradient.slice(0, 1000)).toExponential(2))
  model.dispose()
}

main(process.argv[2]).catch((error) => {
  console.error(error.message)
  process.exitCode = 1
})
