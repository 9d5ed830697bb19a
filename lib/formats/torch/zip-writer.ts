/**
 * Zip files in the layout of torch.save: stored entries whose bytes begin at multiples of 64, so that a reader may map
 * them. Handwritten because yazl controls the extra fields of its local headers, and with them the alignment. Sizes are
 * known before an entry is written, so local headers have them, unlike torch's; the checksum is filled in afterwards.
 * Format: APPNOTE.TXT of PKWARE, 4.3 to 4.5.
 */
import { crc32 } from '../../io/crc.js'
import type { FileSink } from '../../io/file-sink.js'

/** torch's `storage_alignment`. */
const ALIGNMENT = 64
/** From here on sizes and positions need the fields of zip64. */
const ZIP64_FROM = 0xffffffff
const MANY_ENTRIES = 0xffff
/** 1 January 1980, the earliest date of a zip file. */
const DATE = 0x21
const [VERSION, VERSION_ZIP64] = [20, 45]

interface Entry {
  name: Buffer
  crc: number
  size: number
  headerAt: number
}

/** Writes bytes of one entry. */
export type EntryWriter = (bytes: Uint8Array) => Promise<void>

export class StoredZipWriter {
  readonly #entries: Entry[] = []

  /** @param zip64From the size or position from which zip64 fields are written; tests lower it */
  constructor(
    private readonly sink: FileSink,
    private readonly zip64From = ZIP64_FROM,
  ) {}

  /**
   * Adds an entry.
   * @param size the exact number of bytes that `produce` will write
   * @returns their CRC-32
   * @throws {RangeError} for another number of bytes
   */
  async add(name: string, size: number, produce: (write: EntryWriter) => Promise<void>): Promise<number> {
    const entry: Entry = { name: Buffer.from(name), crc: 0, size, headerAt: this.sink.position }
    await this.sink.write(this.#localHeader(entry))
    const start = this.sink.position
    await produce(async (bytes) => {
      entry.crc = crc32(bytes, entry.crc)
      await this.sink.write(bytes)
    })
    const written = this.sink.position - start
    if (written !== size) throw new RangeError(`${name} should have ${size} bytes, and ${written} were written`)
    this.sink.patch(entry.headerAt + 14, fields([4, entry.crc]))
    this.#entries.push(entry)
    return entry.crc
  }

  /** Adds an entry whose bytes are in memory. */
  addBytes(name: string, bytes: Uint8Array): Promise<number> {
    return this.add(name, bytes.length, (write) => write(bytes))
  }

  /** Writes the directory. */
  async end(): Promise<void> {
    const start = this.sink.position
    for (const entry of this.#entries) await this.sink.write(this.#directoryEntry(entry))
    const size = this.sink.position - start
    const count = this.#entries.length
    const wide = count >= MANY_ENTRIES || this.#isWide(start) || this.#isWide(size)
    if (wide) {
      const end = this.sink.position
      const versions: Field[] = [
        [2, VERSION_ZIP64],
        [2, VERSION_ZIP64],
      ]
      await this.sink.write(
        fields([4, 0x06064b50], [8, 44], ...versions, [4, 0], [4, 0], [8, count], [8, count], [8, size], [8, start]),
      )
      await this.sink.write(fields([4, 0x07064b50], [4, 0], [8, end], [4, 1]))
    }
    const [counted, sized, started] = wide ? [MANY_ENTRIES, ZIP64_FROM, ZIP64_FROM] : [count, size, start]
    await this.sink.write(
      fields([4, 0x06054b50], [2, 0], [2, 0], [2, counted], [2, counted], [4, sized], [4, started], [2, 0]),
    )
  }

  /** Ends with an extra field `FB`, as torch pads it, after which the data is aligned. */
  #localHeader({ name, size, headerAt }: Entry): Buffer {
    const wide = this.#isWide(size)
    const zip64 = wide ? fields([2, 1], [2, 16], [8, size], [8, size]) : Buffer.alloc(0)
    const before = headerAt + 30 + name.length + zip64.length + 4
    const padding = Buffer.alloc((ALIGNMENT - (before % ALIGNMENT)) % ALIGNMENT, 'Z')
    const extra = Buffer.concat([zip64, fields([2, 0x4246], [2, padding.length]), padding])
    const shown = wide ? ZIP64_FROM : size
    return Buffer.concat([
      fields([4, 0x04034b50], [2, wide ? VERSION_ZIP64 : VERSION], [2, 0], [2, 0], [2, 0], [2, DATE], [4, 0]),
      fields([4, shown], [4, shown], [2, name.length], [2, extra.length]),
      name,
      extra,
    ])
  }

  #directoryEntry({ name, crc, size, headerAt }: Entry): Buffer {
    const [wideSize, wideOffset] = [this.#isWide(size), this.#isWide(headerAt)]
    const values: Field[] = [
      ...(wideSize
        ? ([
            [8, size],
            [8, size],
          ] as Field[])
        : []),
      ...(wideOffset ? ([[8, headerAt]] as Field[]) : []),
    ]
    const extra = values.length > 0 ? fields([2, 1], [2, 8 * values.length], ...values) : Buffer.alloc(0)
    const version = values.length > 0 ? VERSION_ZIP64 : VERSION
    const shown = wideSize ? ZIP64_FROM : size
    return Buffer.concat([
      fields([4, 0x02014b50], [2, version], [2, version], [2, 0], [2, 0], [2, 0], [2, DATE], [4, crc]),
      fields([4, shown], [4, shown], [2, name.length], [2, extra.length], [2, 0], [2, 0], [2, 0], [4, 0]),
      fields([4, wideOffset ? ZIP64_FROM : headerAt]),
      name,
      extra,
    ])
  }

  #isWide(value: number): boolean {
    return value >= this.zip64From
  }
}

type Field = [bytes: 2 | 4 | 8, value: number]

/** Concatenated little-endian numbers. */
function fields(...list: Field[]): Buffer {
  const buffer = Buffer.alloc(list.reduce((sum, [bytes]) => sum + bytes, 0))
  let at = 0
  for (const [bytes, value] of list) {
    if (bytes === 8) buffer.writeBigUInt64LE(BigInt(value), at)
    else buffer.writeUIntLE(value, at, bytes)
    at += bytes
  }
  return buffer
}
