/** Handmade torch files, for contents that torch itself would not write. */

interface ZipOptions {
  /** Sizes and offsets in zip64 fields, however small they are. */
  zip64?: boolean
  compression?: number
  flags?: number
}

/** A zip file of stored entries; like torch's, local headers have no sizes but an extra field. */
export function zipFile(entries: [name: string, data: Uint8Array][], options: ZipOptions = {}): Buffer {
  const { zip64 = false, compression = 0, flags = 8 } = options
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let offset = 0
  const add = (...buffers: Uint8Array[]) => {
    for (const buffer of buffers) {
      parts.push(Buffer.from(buffer))
      offset += buffer.length
    }
  }
  for (const [name, data] of entries) {
    const header = offset
    const nameBytes = Buffer.from(name)
    const padding = Buffer.alloc((64 - ((offset + 30 + nameBytes.length + 4) % 64)) % 64, 'Z')
    const fixed = [u16(flags), u16(compression), u32(0), u32(0)]
    const extra = [u16(0x4246), u16(padding.length), padding]
    add(u32(0x04034b50), u16(20), ...fixed, u32(0), u32(0), u16(nameBytes.length), u16(4 + padding.length))
    add(nameBytes, ...extra, data)
    const wide = zip64
      ? Buffer.concat([u16(1), u16(24), u64(data.length), u64(data.length), u64(header)])
      : Buffer.alloc(0)
    const size = u32(zip64 ? 0xffffffff : data.length)
    directory.push(
      ...[u32(0x02014b50), u16(20), u16(20), ...fixed, size, size, u16(nameBytes.length), u16(wide.length)],
      ...[u16(0), u16(0), u16(0), u32(0), u32(zip64 ? 0xffffffff : header), nameBytes, wide],
    )
  }
  const start = offset
  add(...directory)
  const size = offset - start
  if (zip64) {
    const end = offset
    add(u32(0x06064b50), u64(44), u16(45), u16(45), u32(0), u32(0), u64(entries.length), u64(entries.length))
    add(u64(size), u64(start), u32(0x07064b50), u32(0), u64(end), u32(1))
  }
  add(u32(0x06054b50), u16(0), u16(0), u16(zip64 ? 0xffff : entries.length), u16(zip64 ? 0xffff : entries.length))
  add(u32(zip64 ? 0xffffffff : size), u32(zip64 ? 0xffffffff : start), u16(0))
  return Buffer.concat(parts)
}

/** A torch file with this pickle, and storages by key. */
export function torchFile(pickle: Buffer, storages: Record<string, Uint8Array> = {}, options: ZipOptions = {}): Buffer {
  const data = Object.entries(storages).map(([key, bytes]): [string, Uint8Array] => [`archive/data/${key}`, bytes])
  return zipFile([['archive/data.pkl', pickle], ...data, ['archive/version', Buffer.from('3\n')]], options)
}

/** A complete pickle around the opcodes of one object. */
export function pickled(...opcodes: Uint8Array[]): Buffer {
  return Buffer.concat([Buffer.from([0x80, 2]), ...opcodes, Buffer.from('.')])
}

export const op = (text: string) => Buffer.from(text, 'latin1')
export const none = op('N')
export const integer = (value: number) => Buffer.concat([op('J'), u32(value)])
export const text = (value: string) => Buffer.concat([op('X'), u32(Buffer.byteLength(value)), Buffer.from(value)])
export const tuple = (...items: Uint8Array[]) => Buffer.concat([op('('), ...items, op('t')])
export const dictionary = (...items: Uint8Array[]) => Buffer.concat([op('}('), ...items, op('u')])
export const global = (module: string, name: string) => op(`c${module}\n${name}\n`)
export const call = (callee: Uint8Array, ...args: Uint8Array[]) => Buffer.concat([callee, tuple(...args), op('R')])

export interface StoredTensor {
  key?: string
  numel: number
  shape: number[]
  strides: number[]
  offset?: number
  storage?: string
  location?: string
}

export function storedTensor({ key = '0', storage = 'FloatStorage', location = 'cpu', ...view }: StoredTensor): Buffer {
  const id = tuple(text('storage'), global('torch', storage), text(key), text(location), integer(view.numel))
  const sizes = [view.shape, view.strides].map((list) => tuple(...list.map(integer)))
  const hooks = call(global('collections', 'OrderedDict'))
  const args = [Buffer.concat([id, op('Q')]), integer(view.offset ?? 0), ...sizes, op('\x89'), hooks]
  return call(global('torch._utils', '_rebuild_tensor_v2'), ...args)
}

function u16(value: number): Buffer {
  const buffer = Buffer.alloc(2)
  buffer.writeUInt16LE(value)
  return buffer
}

function u32(value: number): Buffer {
  const buffer = Buffer.alloc(4)
  buffer.writeUInt32LE(value >>> 0)
  return buffer
}

function u64(value: number): Buffer {
  const buffer = Buffer.alloc(8)
  buffer.writeBigUInt64LE(BigInt(value))
  return buffer
}
