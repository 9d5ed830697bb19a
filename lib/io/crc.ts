/** 32-bit cyclic redundancy checks, reflected, as used in file formats. */
import * as zlib from 'node:zlib'

/** A checksum of bytes; `value` is that of the preceding bytes. */
export type Crc = (data: Uint8Array, value?: number) => number

/** @param polynomial in its reflected form */
export function crcOf(polynomial: number): Crc {
  const table = Uint32Array.from({ length: 256 }, (_, byte) => {
    for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ polynomial : byte >>> 1
    return byte
  })
  return (data, value = 0) => {
    let crc = ~value
    for (const byte of data) crc = (crc >>> 8) ^ table[(crc ^ byte) & 0xff]
    return ~crc >>> 0
  }
}

/** CRC-32, of zip archives. Node.js has a native one from 20.15 on. */
export const crc32: Crc = zlib.crc32 ?? crcOf(0xedb88320)

/** CRC-32C (Castagnoli), as defined in RFC 3720. */
export const crc32c = crcOf(0x82f63b78)
