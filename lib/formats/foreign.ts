/** Formats that are recognized but not read: their names, and the commands that convert them. */
import path from 'node:path'

/** Why weights of a type cannot be used, with advice, as the end of a sentence; undefined for usable types. */
export function unusableType(dtype: string, where: string): string | undefined {
  if (dtype === 'float32' || dtype === 'bfloat16' || dtype === 'float16') return undefined
  if (dtype === 'float64') {
    return (
      'is float64, and weights are read as float32, bfloat16, or float16: convert them with ' +
      `openalpaca make-shards --model_path ${where} --output NEW --dtype float32`
    )
  }
  return (
    `is ${dtype}, a type of quantized weights: take the model's version in bfloat16, or dequantize it with ` +
    `python -c "from transformers import AutoModelForCausalLM as Model; ` +
    `Model.from_pretrained('${where}').dequantize().save_pretrained('NEW')"`
  )
}

/**
 * Where a directory has a distributed PyTorch checkpoint, and how to convert it; undefined for none. FSDP's Trainer
 * integrations keep one in `pytorch_model_fsdp_0`, below the checkpoint.
 */
export function distributedCheckpoint(directory: string, names: readonly string[]): string | undefined {
  const below = names.find((name) => /^pytorch_model_fsdp_\d+$/.test(name))
  if (!names.some((name) => name.endsWith('.distcp')) && below === undefined) return undefined
  return convertDistributed(below === undefined ? directory : path.join(directory, below))
}

/** The same for one of its files. */
export function partOfDistributed(file: string): string | undefined {
  return file.endsWith('.distcp') ? convertDistributed(path.dirname(file)) : undefined
}

function convertDistributed(directory: string): string {
  return (
    `${directory} is a distributed checkpoint of PyTorch, which lies in its .distcp files and .metadata together: convert ` +
    `it with python -m torch.distributed.checkpoint.format_utils dcp_to_torch ${directory} pytorch_model.bin`
  )
}
