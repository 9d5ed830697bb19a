/** Splits a state dict over files, and names them, as huggingface_hub's `split_torch_state_dict_into_shards` does. */
export type WeightFormat = 'safetensors' | 'bin'

/** Names that Transformers looks for, of single files and indexes. */
export const WEIGHT_FILES: Readonly<Record<WeightFormat, { whole: string; index: string }>> = {
  safetensors: { whole: 'model.safetensors', index: 'model.safetensors.index.json' },
  bin: { whole: 'pytorch_model.bin', index: 'pytorch_model.bin.index.json' },
}

export const DEFAULT_MAX_SHARD_SIZE = '5GB'

export interface ShardPlan {
  readonly files: readonly { readonly name: string; readonly tensors: readonly string[]; readonly bytes: number }[]
  /** Bytes of all tensors. */
  readonly totalSize: number
  /** The contents of `<whole name>.index.json`; undefined if one file holds everything. */
  readonly index: string | undefined
}

/**
 * Fills shards greedily, in state dict order: a tensor that would make the shard exceed `maxShardSize` starts the next
 * one, and a larger tensor gets a separate shard. Tied tensors (`sameAs`) go to the shard of the one whose storage they
 * share, and take no space.
 * @param maxShardSize bytes, or a text such as `5GB`
 * @throws {RangeError} for an invalid size
 */
export function planShards(
  tensors: Iterable<{ readonly name: string; readonly bytes: number; readonly sameAs?: string }>,
  maxShardSize: number | string = DEFAULT_MAX_SHARD_SIZE,
  format: WeightFormat = 'safetensors',
): ShardPlan {
  const limit = parseSize(maxShardSize)
  const shards: { tensors: string[]; bytes: number }[] = []
  let current: { tensors: string[]; bytes: number } = { tensors: [], bytes: 0 }
  const ties: [name: string, owner: string][] = []
  for (const { name, bytes, sameAs } of tensors) {
    if (sameAs !== undefined) {
      ties.push([name, sameAs])
      continue
    }
    if (bytes > limit) {
      // Goes before the shard being filled, which continues with the next tensor, as in huggingface_hub.
      shards.push({ tensors: [name], bytes })
      continue
    }
    if (current.bytes + bytes > limit) {
      shards.push(current)
      current = { tensors: [], bytes: 0 }
    }
    current.tensors.push(name)
    current.bytes += bytes
  }
  if (current.tensors.length > 0 || shards.length === 0) shards.push(current)
  for (const [name, owner] of ties) shards.find(({ tensors }) => tensors.includes(owner))?.tensors.push(name)

  const files = shards.map((shard, i) => ({ ...shard, name: shardName(format, i, shards.length) }))
  const totalSize = shards.reduce((sum, { bytes }) => sum + bytes, 0)
  return { files, totalSize, index: files.length > 1 ? indexJson(files, totalSize) : undefined }
}

/** Whether a file name is that of weights in this format, a single file or a shard. */
export function isWeightFile(name: string, format: WeightFormat): boolean {
  const { whole } = WEIGHT_FILES[format]
  return name === whole || name.replace(/-\d{5}-of-\d{5}\./, '.') === whole
}

function shardName(format: WeightFormat, index: number, count: number): string {
  const { whole } = WEIGHT_FILES[format]
  if (count === 1) return whole
  const digits = (value: number) => String(value).padStart(5, '0')
  return whole.replace('.', `-${digits(index + 1)}-of-${digits(count)}.`)
}

function indexJson(files: ShardPlan['files'], totalSize: number): string {
  const weightMap = files.flatMap(({ name, tensors }) => tensors.map((tensor): [string, string] => [tensor, name]))
  weightMap.sort(([a], [b]) => (a < b ? -1 : 1))
  // Not Object.fromEntries alone: it would put names that look like numbers first.
  const lines = weightMap.map(([tensor, file]) => `    ${JSON.stringify(tensor)}: ${JSON.stringify(file)}`)
  return `{\n  "metadata": {\n    "total_size": ${totalSize}\n  },\n  "weight_map": {\n${lines.join(',\n')}\n  }\n}\n`
}

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
}

/**
 * Bytes in a size such as `5GB` (10⁹), `300 MB`, `2GiB` (2³⁰) or a plain number.
 * @throws {RangeError} for anything else, and for less than a byte
 */
export function parseSize(size: number | string): number {
  const [, digits, unit] = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(String(size)) ?? []
  const bytes = Math.floor(Number(digits) * (UNITS[(unit ?? '').toUpperCase()] ?? Number.NaN))
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes
  throw new RangeError(`expected a size such as 5GB, 300MB, or 2GiB, got "${size}"`)
}
