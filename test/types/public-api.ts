/**
 * A user's program, which must compile against the built declarations of the package; it is never run.
 * declarations.test.ts compiles it as CommonJS, as an ES module, and as a bundler would.
 */
import { expectTypeOf } from 'expect-type'
import {
  type Backend,
  backends,
  type ConfigJson,
  formatPrompt,
  LlamaForCausalLM,
  LlamaTokenizer,
  OpenAlpacaError,
  openDevice,
  ops,
  type StepEvent,
  type Tensor,
  Trainer,
  type TrainResult,
} from 'openalpaca-native'

declare const dir: string
declare const ids: number[]

export async function theApiOfTheDesign(): Promise<void> {
  expectTypeOf(backends()).toEqualTypeOf<Backend[]>()
  expectTypeOf(backends()[0]!.reason).toEqualTypeOf<string | undefined>()

  const tokenizer = await LlamaTokenizer.fromPretrained(dir)
  expectTypeOf(tokenizer.encode('text', { addSpecialTokens: false })).toEqualTypeOf<number[]>()
  expectTypeOf(tokenizer.decode(ids, { skipSpecialTokens: true })).toEqualTypeOf<string>()
  expectTypeOf(formatPrompt({ instruction: 'a', input: 'b' })).toEqualTypeOf<string>()

  using model = await LlamaForCausalLM.fromPretrained(dir, { device: 'cuda', dtype: 'bfloat16' })
  expectTypeOf(model).toEqualTypeOf<LlamaForCausalLM>()
  expectTypeOf(await model.logits([[1, 5, 9]])).toEqualTypeOf<Float32Array[]>()
  const { loss, gradients } = await model.lossAndGradients([ids], [ids], { lossReduction: 'instance' })
  expectTypeOf(loss).toBeNumber()
  expectTypeOf(gradients).toEqualTypeOf<Map<string, Float32Array>>()

  const options = { maxNewTokens: 128, topK: 50, topP: 0.9, temperature: 1, doSample: true, seed: 0 }
  expectTypeOf(await model.generate(ids, options)).toEqualTypeOf<number[]>()
  expectTypeOf(await model.generate([ids, ids], { eosTokenId: null })).toEqualTypeOf<number[][]>()
  for await (const id of model.stream(ids, { signal: AbortSignal.timeout(1000), ...options })) {
    expectTypeOf(id).toBeNumber()
  }
  await model.savePretrained(dir, { format: 'safetensors', maxShardSize: '5GB', dtype: 'bfloat16' })
  const onStep = (event: StepEvent) => expectTypeOf(event.loss).toBeNumber()
  const trainer = new Trainer({ model, tokenizer, dataPath: 'a.json', savePath: 'b', learningRate: 2e-5 })
  expectTypeOf(await trainer.train({ onStep })).toEqualTypeOf<TrainResult>()
  expectTypeOf(trainer.recipe.batch_size).toBeNumber()
}

export function modelsAndMistakes(config: ConfigJson): void {
  using fresh = LlamaForCausalLM.fromConfig(config, { seed: 0, device: 'auto', dtype: 'auto' })
  expectTypeOf(fresh.config.hiddenSize).toBeNumber()
  expectTypeOf(fresh.dtype).toEqualTypeOf<'bfloat16' | 'float32'>()
  // @ts-expect-error: unknown device
  LlamaForCausalLM.fromConfig(config, { device: 'gpu' })
  // @ts-expect-error: a shape must consist of integers
  LlamaForCausalLM.fromConfig({ hidden_size: 8 })
  // @ts-expect-error: models are created by fromPretrained and fromConfig
  new LlamaForCausalLM(config)
  // @ts-expect-error: a misspelled option
  fresh.generate(ids, { maxNewToken: 1 })
  // @ts-expect-error: training needs a tokenizer
  new Trainer({ model: fresh })
  // @ts-expect-error: recipe keys are in camel case here
  new Trainer({ model: fresh, tokenizer: {} as LlamaTokenizer, learning_rate: 1 })
}

export async function opsOfOnesOwn(): Promise<void> {
  const device = openDevice('cpu')
  const stream = device.createStream()
  using x = device.tensor('float32', [2, 4])
  expectTypeOf(x).toEqualTypeOf<Tensor>()
  stream.write(x, new Float32Array(8))
  ops.matmul(stream, { c: x, a: x, b: x, transposeB: true, beta: 1 })
  ops.adamw(stream, { ...{ master: x, m: x, v: x, grad: x }, ...rates })
  // @ts-expect-error: eps is missing
  ops.rmsNormForward(stream, { y: x, rstd: x, x, w: x })
  // @ts-expect-error: a tensor, not an array
  ops.fill(stream, { x: new Float32Array(8), value: 1 })
  // @ts-expect-error: unknown dtype
  device.tensor('float64', [1])
  expectTypeOf(ops.attentionForward).returns.toBeVoid()
  expectTypeOf(stream.synchronize()).resolves.toBeVoid()
  expectTypeOf(await x.toArray()).toEqualTypeOf<Float32Array | Int32Array | Uint16Array>()
}

const rates = { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0, gradScale: 1, step: 1 }

export function errorsTellThemselvesApart(error: unknown): string {
  return error instanceof OpenAlpacaError ? error.code : ''
}
