import { PieceType, type SentencePieceModel } from './sentencepiece-model.js'

/** The part of a tokenizer that decoding uses. */
export interface DecodeTable {
  model: SentencePieceModel
  /** Tokens after the model's pieces (`[PAD]`), by id. */
  addedTokens: ReadonlyMap<number, string>
  /** Ids that `skipSpecialTokens` skips. */
  specialIds: ReadonlySet<number>
}

/**
 * Decodes ids incrementally. The concatenated text equals `decode` of all ids at once; the bytes of an incomplete
 * character are held back.
 *
 * It reimplements SentencePiece's `Decode`, which only takes complete sequences: the space added in encoding is
 * removed, and each byte that is not valid UTF-8 becomes U+FFFD.
 */
export class DecodeStream {
  readonly #table: DecodeTable
  readonly #skipSpecialTokens: boolean
  #bytes: number[] = []
  /** Whether a leading space would still be the one added in encoding. */
  #atStart = true

  constructor(table: DecodeTable, skipSpecialTokens: boolean) {
    this.#table = table
    this.#skipSpecialTokens = skipSpecialTokens
  }

  /**
   * @returns the text that these ids complete, possibly empty
   * @throws {RangeError} for a value that is not an id; an id without a token adds no text
   */
  push(ids: number | Iterable<number>): string {
    let text = ''
    for (const id of typeof ids === 'number' ? [ids] : ids) text += this.#token(id)
    return text
  }

  /**
   * @returns the bytes held back, as replacement characters; the stream then continues as after a complete character
   */
  flush(): string {
    return this.#takeBytes(true)
  }

  #token(id: number): string {
    const { model, addedTokens, specialIds } = this.#table
    const piece = model.pieces[id]
    const added = addedTokens.get(id)
    if (!Number.isInteger(id) || id < 0) throw new RangeError(`expected a token id, got ${id}`)
    // A model may have more ids than the tokenizer has tokens (padded vocabularies).
    if (piece === undefined && added === undefined) return ''
    if (specialIds.has(id) && this.#skipSpecialTokens) return ''
    if (added !== undefined || specialIds.has(id)) return this.#emit(this.flush() + (added ?? piece.text))
    if (piece.type === PieceType.Byte) {
      this.#bytes.push(Number.parseInt(piece.text.slice(3, 5), 16)) // <0x41>
      return this.#takeBytes(false)
    }
    return this.flush() + this.#emit(this.#withoutDummyPrefix(piece.text).replaceAll('▁', ' '))
  }

  #withoutDummyPrefix(piece: string): string {
    const { addDummyPrefix, removeExtraWhitespaces } = this.#table.model
    if (!this.#atStart || !(addDummyPrefix || removeExtraWhitespaces) || !piece.startsWith('▁')) return piece
    // A model that merges runs of spaces (OpenLLaMA v1) drops all leading ones, one that keeps them (v2) only the
    // first.
    if (!removeExtraWhitespaces) this.#atStart = false
    return piece.slice(1)
  }

  #emit(text: string): string {
    if (text !== '') this.#atStart = false
    return text
  }

  #takeBytes(final: boolean): string {
    const bytes = this.#bytes
    let text = ''
    let at = 0
    while (at < bytes.length) {
      const length = utf8Length(bytes, at)
      if (length === 'incomplete' && !final) break
      if (typeof length === 'number') {
        text += Buffer.from(bytes.slice(at, at + length)).toString('utf8')
        at += length
      } else {
        text += '\uFFFD'
        at += 1
      }
    }
    this.#bytes = bytes.slice(at)
    return this.#emit(text)
  }
}

/** Length of the character that starts at `at`, by table 3-7 of the Unicode Standard (well-formed UTF-8). */
function utf8Length(bytes: number[], at: number): number | 'incomplete' | 'invalid' {
  const lead = bytes[at]
  if (lead < 0x80) return 1
  const length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0
  if (length === 0) return 'invalid'
  for (let i = 1; i < length; i++) {
    if (at + i >= bytes.length) return 'incomplete'
    const byte = bytes[at + i]
    // The second byte's range is narrower after four leads: no overlong forms, no surrogates, nothing past U+10FFFF.
    const low = i > 1 ? 0x80 : lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80
    const high = i > 1 ? 0xbf : lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf
    if (byte < low || byte > high) return 'invalid'
  }
  return length
}
