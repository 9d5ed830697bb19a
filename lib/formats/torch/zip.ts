import { fromRandomAccessReaderPromise, RandomAccessReader } from 'yauzl'
import { CheckpointError } from '../../errors.js'
import { forError } from '../../format.js'
import { crc32 } from '../../io/crc.js'
import { WeightFile } from '../weight-file.js'

/** The location of an uncompressed zip entry's bytes in the file. */
export interface StoredEntry {
  readonly start: number
  readonly size: number
  /** From the directory; 0 if the writer computed none. */
  readonly crc: number
}

const MAX_ENTRIES = 1_000_000

/**
 * The entries of a zip file without compression, so that they can be read in place. Sizes come from the central
 * directory, as torch leaves them out of the local headers; positions from the local headers.
 * @throws {CheckpointError} for a file that is not a zip file, is cut short, or has a compressed, encrypted, or
 *   repeated entry
 */
export async function readZipEntries(file: WeightFile): Promise<Map<string, StoredEntry>> {
  const entries = new Map<string, StoredEntry>()
  try {
    const zip = await fromRandomAccessReaderPromise(new WeightFileReader(file), file.size, { autoClose: false })
    if (zip.entryCount > MAX_ENTRIES) throw new Error(`it would have ${zip.entryCount} entries`)
    for await (const entry of zip.eachEntry()) {
      const { fileName: name, uncompressedSize: size } = entry
      if (/^[^/]+\/code\//.test(name)) continue // of TorchScript, which compresses it; not read here
      if (entry.compressionMethod !== 0) throw new Error(`its entry ${name} is compressed`)
      if (entry.isEncrypted()) throw new Error(`its entry ${name} is encrypted`)
      if (entries.has(name)) throw new Error(`it has two entries ${name}`)
      const { fileDataStart: start } = await zip.readLocalFileHeaderPromise(entry, { minimal: true })
      if (start + size > file.size) throw new Error(`its entry ${name} goes past the end of the file`)
      entries.set(name, { start, size, crc: entry.crc32 })
    }
  } catch (cause) {
    if (cause instanceof CheckpointError) throw cause
    const reason = forError((cause as Error).message).replace(/\.$/, '')
    throw new CheckpointError(`${file.path} cannot be read as a torch zip file: ${reason}; download or copy it again`, {
      cause,
    })
  }
  return entries
}

/**
 * Reads every entry of a zip file, and returns the names of those whose CRC-32 differs from the directory's. Other
 * formats have no checksums, so the result is empty.
 */
export async function findDamagedEntries(path: string): Promise<string[]> {
  const file = await WeightFile.open(path)
  try {
    if ((await file.readStart(4)).toString('latin1') !== 'PK\x03\x04') return []
    const damaged: string[] = []
    const buffer = Buffer.allocUnsafeSlow(4 << 20)
    for (const [name, { start, size, crc: expected }] of await readZipEntries(file)) {
      if (expected === 0) continue
      let crc = 0
      for (let at = 0; at < size; at += buffer.length) {
        const piece = buffer.subarray(0, Math.min(buffer.length, size - at))
        await file.read(start + at, piece)
        crc = crc32(piece, crc)
      }
      if (crc !== expected) damaged.push(name)
    }
    return damaged
  } finally {
    await file.close()
  }
}

/** Passes bytes to yauzl, and an error instead of an exception for positions that only a damaged file has. */
class WeightFileReader extends RandomAccessReader {
  constructor(private readonly file: WeightFile) {
    super()
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null) => void,
  ): void {
    this.file.read(position, buffer.subarray(offset, offset + length)).then(() => callback(null), callback)
  }
}
