/**
 * openalpaca-native: full fine-tuning and inference of LLaMA models from Node.js.
 *
 * @packageDocumentation
 */
import './symbol-dispose.js'

export { LlamaForCausalLM, type ModelOptions } from './causal-lm.js'
export { type Instruction, type InstructionRow, readInstructions } from './data/instructions.js'
export type { LossReduction } from './data/packing.js'
export { encodePrompt, formatPrompt, type PromptFields } from './data/prompt.js'
export { type Backend, backends, Device, type DeviceType, openDevice, Stream } from './device.js'
export * from './errors.js'
export type { CastDType } from './formats/cast.js'
export type { WeightFormat } from './formats/shards.js'
export type { GenerateOptions, GenerationTokenizer } from './generate/options.js'
export { type DownloadOptions, resolveModelPath } from './hub/download.js'
export type { HubSettings } from './hub/settings.js'
export type { TensorInfo, WeightDType } from './io/weight-source.js'
export type { ConfigJson, LlamaConfig } from './model/config.js'
export type { ModelDType } from './model/parameters.js'
export type {
  DynamicRopeScaling,
  LinearRopeScaling,
  Llama3RopeScaling,
  RopeJson,
  RopeScaling,
  YarnRopeScaling,
} from './model/rope-config.js'
export type { DeviceProperties, EventHandle, GraphHandle } from './native.js'
export * as ops from './ops.js'
export type { SaveOptions, SaveResult } from './save.js'
export { type DType, type HostArray, Tensor } from './tensor.js'
export type { DecodeStream } from './tokenizer/decode-stream.js'
export { type DecodeOptions, type EncodeOptions, LlamaTokenizer } from './tokenizer/tokenizer.js'
export { type ConvertDType, type ConvertOptions, convertModel } from './tools/convert.js'
export { type InspectOptions, inspect } from './tools/inspect.js'
export type { InspectedKind, InspectedTensor, Inspection } from './tools/inspection.js'
export {
  type ConversionFindings,
  type ConvertedWeights,
  type MakeShardsOptions,
  makeShards,
} from './tools/make-shards.js'
export { type UploadOptions, type UploadResult, uploadModel } from './tools/upload.js'
export { type ZeroToFp32Options, zeroToFp32 } from './tools/zero-to-fp32.js'
export type * from './train/events.js'
export type { RecipeOptions } from './train/recipe.js'
export type { Recipe, SizedRecipe } from './train/recipe-schema.js'
export { Trainer, type TrainerOptions, type TrainOptions, type TrainResult } from './train/trainer.js'
export type { OnWarning } from './warnings.js'
