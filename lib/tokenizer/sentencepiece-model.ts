/** SentencePiece.Type in sentencepiece_model.proto. */
export enum PieceType {
  Normal = 1,
  Unknown = 2,
  Control = 3,
  UserDefined = 4,
  Unused = 5,
  Byte = 6,
}

/** TrainerSpec.ModelType in sentencepiece_model.proto: the algorithm that splits a text into pieces. */
export enum ModelType {
  Unigram = 1,
  Bpe = 2,
  Word = 3,
  Char = 4,
}

interface Piece {
  text: string
  type: PieceType
  /** In a BPE model, the pair with the higher score is merged first. */
  score: number
}

/** The contents of a `tokenizer.model`: the pieces by id, and the handling of spaces. */
export interface SentencePieceModel {
  pieces: Piece[]
  modelType: ModelType
  /** Ids from the trainer's settings; −1 means that the model has no such token. */
  unkId: number
  bosId: number
  eosId: number
  padId: number
  addDummyPrefix: boolean
  removeExtraWhitespaces: boolean
}

/**
 * Reads the protobuf of a SentencePiece model, since the WASM processor exposes neither the size of the vocabulary nor
 * the type or score of a piece. Field numbers are those of sentencepiece_model.proto; unknown fields are skipped.
 * @throws {Error} for bytes that are not such a model
 */
export function readSentencePieceModel(bytes: Uint8Array): SentencePieceModel {
  // These are the defaults of the .proto.
  const model: SentencePieceModel = {
    pieces: [],
    modelType: ModelType.Unigram,
    unkId: 0,
    bosId: 1,
    eosId: 2,
    padId: -1,
    addDummyPrefix: true,
    removeExtraWhitespaces: true,
  }
  for (const { field, value } of fields(bytes)) {
    if (field === 1) model.pieces.push(readPiece(message(value)))
    else if (field === 2) readTrainerSpec(message(value), model)
    else if (field === 3) readNormalizerSpec(message(value), model)
  }
  if (model.pieces.length === 0) throw new Error('it holds no pieces')
  return model
}

function readPiece(bytes: Uint8Array): Piece {
  const piece = { text: '', type: PieceType.Normal, score: 0 }
  for (const { field, value, float } of fields(bytes)) {
    if (field === 1) piece.text = Buffer.from(message(value)).toString('utf8')
    else if (field === 2) piece.score = float ?? 0
    else if (field === 3) piece.type = integer(value)
  }
  return piece
}

function readTrainerSpec(bytes: Uint8Array, model: SentencePieceModel): void {
  for (const { field, value } of fields(bytes)) {
    if (field === 3) model.modelType = integer(value)
    else if (field === 40) model.unkId = integer(value)
    else if (field === 41) model.bosId = integer(value)
    else if (field === 42) model.eosId = integer(value)
    else if (field === 43) model.padId = integer(value)
  }
}

function readNormalizerSpec(bytes: Uint8Array, model: SentencePieceModel): void {
  for (const { field, value } of fields(bytes)) {
    if (field === 3) model.addDummyPrefix = integer(value) !== 0
    else if (field === 4) model.removeExtraWhitespaces = integer(value) !== 0
  }
}

interface Field {
  field: number
  /** A varint as int32, or the bytes of a string or message; undefined for a number of fixed size. */
  value: number | Uint8Array | undefined
  /** The value of a float. */
  float?: number
}

/** The fields of one protobuf message (https://protobuf.dev/programming-guides/encoding), in file order. */
function* fields(bytes: Uint8Array): Generator<Field> {
  let at = 0
  /** Only the low 32 bits are needed; a negative int32 is written with ten bytes. */
  const varint = (): number => {
    let value = 0
    for (let shift = 0; shift < 70; shift += 7) {
      if (at >= bytes.length) throw new Error('it is cut short')
      const byte = bytes[at++]
      if (shift < 32) value |= (byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
    throw new Error('it holds a number of more than ten bytes')
  }
  const take = (length: number): Uint8Array => {
    if (length < 0 || length > bytes.length - at) throw new Error('it is cut short')
    at += length
    return bytes.subarray(at - length, at)
  }
  while (at < bytes.length) {
    const key = varint()
    const field = key >>> 3
    const wireType = key & 7
    if (field === 0) throw new Error('it holds a field number of 0')
    if (wireType === 0) yield { field, value: varint() }
    else if (wireType === 2) yield { field, value: take(varint()) }
    else if (wireType === 1 || wireType === 5) {
      const number = take(wireType === 1 ? 8 : 4)
      const float = wireType === 5 ? Buffer.from(number).readFloatLE() : undefined
      yield { field, value: undefined, float }
    } else throw new Error(`it holds the unknown wire type ${wireType}`)
  }
}

function message(value: Field['value']): Uint8Array {
  if (value instanceof Uint8Array) return value
  throw new Error('it holds a number where a message belongs')
}

function integer(value: Field['value']): number {
  if (typeof value === 'number') return value
  throw new Error('it holds a message where a number belongs')
}
