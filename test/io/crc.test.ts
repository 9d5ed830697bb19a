import * as zlib from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { crc32, crc32c, crcOf } from '../../lib/io/crc.js'

/** One bit at a time, from its definition. */
function slowCrc(bytes: Uint8Array, polynomial: number): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    for (let bit = 0; bit < 8; bit++) {
      const isOdd = ((crc ^ (byte >>> bit)) & 1) === 1
      crc = (crc >>> 1) ^ (isOdd ? polynomial : 0)
    }
  }
  return ~crc >>> 0
}

const bytes = fc.uint8Array({ maxLength: 40 })

describe('a checksum', () => {
  test('CRC-32C matches RFC 3720', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283) // the check value of the CRC catalogue
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa) // RFC 3720, B.4
    fc.assert(
      fc.property(bytes, (data) => {
        expect(crc32c(data)).toBe(slowCrc(data, 0x82f63b78))
      }),
      { seed: 4 },
    )
  })

  test.each([
    { who: 'Node.js', crc: crc32 },
    { who: 'a table, where Node.js has none,', crc: crcOf(0xedb88320) },
  ])('CRC-32 by $who matches zip, also when it continues from earlier bytes', ({ crc }) => {
    expect(crc(Buffer.from('123456789'))).toBe(0xcbf43926) // the check value of the CRC catalogue
    fc.assert(
      fc.property(bytes, bytes, (head, tail) => {
        expect(crc(tail, crc(head))).toBe(slowCrc(Buffer.concat([head, tail]), 0xedb88320))
        expect(crc(head)).toBe(zlib.crc32(head))
      }),
      { seed: 5 },
    )
  })
})
