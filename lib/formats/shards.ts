/** Splitting a state dict over files, and naming them, as huggingface_hub's `split_torch_state_dict_into_shards` does. */
export type WeightFormat = 'safetensors' | 'bin'

/** Names that Transformers looks for, whole and sharded. */
export const WEIGHT_FILES: Readonly<Record<WeightFormat, { whole: string; index: string }>> = {
  safetensors: { whole: 'model.safetensors', index: 'model.safetensors.index.json' },
  bin: { whole: 'pytorch_model.bin', index: 'pytorch_model.bin.index.json' },
}

export const DEFAULT_MAX_SHARD_SIZE = '5GB'

export interface ShardPlan {
  readonly files: readonly { readonly name: string; readonly tensors: readonly string[]; readonly bytes: number }[]
  /** Bytes of all tensors. */
  readonly totalSize: number
  /** The contents of `<whole name>.index.json`; undefined when one file holds everything. */
  readonly index: string | undefined
}

/**
 * Fills shards greedily, in the order of the tensors (that of the model's state dict): a tensor that would take the
 * shard past `maxShardSize` begins the next one, and one that is larger by itself gets a shard of its own.
 * Tied tensors (`sameAs`) go where the one that they share a storage with goes, and take no room.
 * @param maxShardSize bytes, or a text such as `5GB`
 * @throws RangeError for a size that cannot be understood
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
      // Ahead of the shard that is being filled, which goes on with the next tensor: what huggingface_hub does.
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

/** Whether a file has the name of weights in this format, whole or a shard. */
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
 * @throws RangeError for anything else, and for less than a byte
 */
export function parseSize(size: number | string): number {
  const [, digits, unit] = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(String(size)) ?? []
  const bytes = Math.floor(Number(digits) * (UNITS[(unit ?? '').toUpperCase()] ?? Number.NaN))
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes
  throw new RangeError(`expected a size such as 5GB, 300MB, or 2GiB, got "${size}"`)
}
