/**
 * Parses the bytes of a JSON file, which editors and shells on Windows may begin with a byte order mark: UTF-8, or
 * UTF-16 in either order.
 * @throws {SyntaxError} for invalid JSON
 */
export function parseJson(bytes: Uint8Array): unknown {
  const [first, second] = bytes
  const encoding =
    first === 0xff && second === 0xfe ? 'utf-16le' : first === 0xfe && second === 0xff ? 'utf-16be' : 'utf-8'
  return JSON.parse(new TextDecoder(encoding).decode(bytes)) // the decoder removes the mark
}
