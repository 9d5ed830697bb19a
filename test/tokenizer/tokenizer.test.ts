import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SentencePieceProcessor } from '@agnai/sentencepiece-js'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { TokenizerError } from '../../lib/errors.js'
import { ggufTokenizer } from '../../lib/tokenizer/gguf.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'

const fixtures = join(__dirname, '../fixtures')
const d100 = join(fixtures, 'd100')

interface Case {
  text: string
  v1: { ids: number[]; decoded: string }
  v2: { ids: number[]; decoded: string }
}

let scratch: string
let cases: Case[]

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'tokenizer-'))
  const lines = await readFile(join(fixtures, 'tokenizer/cases.jsonl'), 'utf8')
  cases = lines
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
})

afterAll(() => rm(scratch, { recursive: true }))

/** A directory with one of the fixture models and the given JSON files. */
async function directory(name: string, model: 'v1' | 'v2', files: Record<string, unknown> = {}): Promise<string> {
  const dir = join(scratch, name)
  await mkdir(dir, { recursive: true })
  await copyFile(join(fixtures, `tokenizer/${model}.model`), join(dir, 'tokenizer.model'))
  for (const [file, content] of Object.entries(files)) await writeFile(join(dir, file), JSON.stringify(content))
  return dir
}

describe.each(['v1', 'v2'] as const)('the %s tokenizer', (version) => {
  let tokenizer: LlamaTokenizer
  let reference: SentencePieceProcessor

  beforeAll(async () => {
    const dir = await directory(version, version)
    tokenizer = await LlamaTokenizer.fromPretrained(dir)
    reference = new SentencePieceProcessor()
    await reference.load(join(dir, 'tokenizer.model'))
  })

  it('encodes every text to the ids of libsentencepiece', () => {
    expect(cases).toHaveLength(67)
    for (const { text, [version]: expected } of cases) {
      expect(tokenizer.encode(text, { addSpecialTokens: false }), JSON.stringify(text)).toEqual(expected.ids)
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual([1, ...expected.ids])
    }
  })

  it('decodes the ids of every text like libsentencepiece', () => {
    for (const { [version]: expected } of cases) {
      expect(tokenizer.decode(expected.ids)).toBe(expected.decoded)
      expect(tokenizer.decode([1, ...expected.ids, 2])).toBe(expected.decoded)
      expect(tokenizer.decode(Int32Array.from(expected.ids))).toBe(expected.decoded)
    }
  })

  it('decodes any ids like the C++ library, including ids that form invalid UTF-8', () => {
    const anyId = fc.integer({ min: 3, max: 511 })
    const byteId = fc.integer({ min: 3 + 0x80, max: 3 + 0xff }) // lead and continuation bytes, mostly out of order
    fc.assert(
      fc.property(fc.array(fc.oneof(anyId, byteId, fc.constant(462)), { maxLength: 40 }), (ids) => {
        expect(tokenizer.decode(ids)).toBe(reference.decodeIds(ids))
      }),
      { seed: 1, numRuns: 2000 },
    )
  })

  it('streams the text that it decodes at once, and never half a character', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 30 }), (text) => {
        const ids = tokenizer.encode(text)
        const stream = tokenizer.createDecodeStream()
        const pieces = ids.map((id) => stream.push(id))
        for (const piece of pieces) expect(piece).not.toContain('\uFFFD')
        expect(pieces.join('')).toBe(tokenizer.decode(ids))
        expect(stream.flush()).toBe('')
      }),
      { seed: 2, numRuns: 500 },
    )
  })

  it('exposes the special ids and the size of the vocabulary', () => {
    expect(tokenizer).toMatchObject({ bosTokenId: 1, eosTokenId: 2, unkTokenId: 0, vocabSize: 512 })
    expect(tokenizer.padTokenId).toBeUndefined()
  })
})

describe('special tokens', () => {
  let tokenizer: LlamaTokenizer
  beforeAll(async () => {
    tokenizer = await LlamaTokenizer.fromPretrained(d100)
  })

  it('special tokens never result from a text that spells them', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.constantFrom('<s>', '</s>', '<unk>', '<0x41>', ' '), fc.string())), (parts) => {
        const ids = tokenizer.encode(parts.join(''), { addSpecialTokens: false })
        expect(ids.filter((id) => id <= 2)).toEqual([])
      }),
      { seed: 3 },
    )
    expect(tokenizer.decode(tokenizer.encode('</s> <s> <unk>'))).toBe('</s> <s> <unk>')
  })

  it('special tokens are omitted from decoded text, or written like Transformers', () => {
    const ids = [1, 462, 75, 463, 473, 355, 508, 291, 296, 36, 2]
    expect(tokenizer.decode(ids)).toBe('Hello, world!')
    expect(tokenizer.decode(ids, { skipSpecialTokens: false })).toBe('<s> Hello, world!</s>')
    expect(tokenizer.decode([265, 0, 265])).toBe('a a')
    expect(tokenizer.decode([265, 0, 265], { skipSpecialTokens: false })).toBe('a<unk> a')
  })

  it('special tokens hold back no bytes after them', () => {
    const stream = tokenizer.createDecodeStream({ skipSpecialTokens: false })
    expect(stream.push([3 + 0xf0, 3 + 0x9f])).toBe('')
    expect(stream.push(2)).toBe('\uFFFD\uFFFD</s>')
    expect(stream.push([3 + 0xf0, 3 + 0x9f, 3 + 0xa6])).toBe('')
    expect(stream.push(3 + 0x99)).toBe('🦙')
    expect(stream.push(3 + 0xe6)).toBe('')
    expect(stream.flush()).toBe('\uFFFD')
  })

  it('special tokens follow tokenizer_config.json with addSpecialTokens, and are a single BOS by default', async () => {
    const dir = await directory('flags', 'v2', {
      'tokenizer_config.json': { add_bos_token: false, add_eos_token: true },
    })
    const flagged = await LlamaTokenizer.fromPretrained(dir)
    expect(flagged.encode('a', { addSpecialTokens: true })).toEqual([265, 2])
    expect(flagged.encode('a', { addSpecialTokens: false })).toEqual([265])
    expect(flagged.encode('a')).toEqual([1, 265])
  })

  it('special tokens fall back to tokenizer.model if old conversions leave them empty', async () => {
    const empty = { bos_token: '', eos_token: '', unk_token: '' }
    const dir = await directory('empty', 'v1', { 'tokenizer_config.json': empty, 'special_tokens_map.json': {} })
    expect(await LlamaTokenizer.fromPretrained(dir)).toMatchObject({ bosTokenId: 1, eosTokenId: 2, unkTokenId: 0 })
  })

  it('special tokens are read from objects as well as from strings', async () => {
    const token = (content: string) => ({ content, lstrip: false, normalized: true, rstrip: false, single_word: false })
    const map = { bos_token: token('</s>'), eos_token: token('<s>'), unk_token: token('<unk>') }
    const dir = await directory('objects', 'v2', { 'special_tokens_map.json': map })
    expect(await LlamaTokenizer.fromPretrained(dir)).toMatchObject({ bosTokenId: 2, eosTokenId: 1 })
  })

  it('a padding token outside the vocabulary gets the next id', async () => {
    for (const [name, files] of Object.entries({
      implied: { 'special_tokens_map.json': { pad_token: '[PAD]' } },
      listed: { 'special_tokens_map.json': { pad_token: '[PAD]' }, 'added_tokens.json': { '[PAD]': 512 } },
      decoder: {
        'tokenizer_config.json': {
          pad_token: '[PAD]',
          added_tokens_decoder: { 1: { content: '<s>', special: true }, 512: { content: '[PAD]', special: true } },
        },
      },
    })) {
      const padded = await LlamaTokenizer.fromPretrained(await directory(`pad-${name}`, 'v2', files))
      expect(padded).toMatchObject({ padTokenId: 512, vocabSize: 513 })
      expect(padded.decode([1, 265, 512])).toBe('a')
      expect(padded.decode([265, 512], { skipSpecialTokens: false })).toBe('a[PAD]')
      expect(padded.encode('[PAD]')).not.toContain(512)
    }
  })
})

describe('unusual input', () => {
  let tokenizer: LlamaTokenizer
  beforeAll(async () => {
    tokenizer = await LlamaTokenizer.fromPretrained(d100)
  })

  it('encodes a lone surrogate as U+FFFD without affecting its neighbors', () => {
    expect(tokenizer.decode(tokenizer.encode('a\uD83Eb'))).toBe('a\uFFFDb')
    expect(tokenizer.decode(tokenizer.encode('\uDD99'))).toBe('\uFFFD')
    expect(tokenizer.decode(tokenizer.encode('a🦙b'))).toBe('a🦙b')
  })

  it('restores the text of any string without lone surrogates', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text.replaceAll('▁', ' '))
      }),
      { seed: 4, numRuns: 200 },
    )
  })

  it('decodes an id without a token to no text, and rejects invalid ids', () => {
    expect(tokenizer.decode([265, 512, 265, 99_999])).toBe(tokenizer.decode([265, 265]))
    expect(tokenizer.decode([512])).toBe('')
    expect([0, 511, 512, -1, 1.5].map((id) => tokenizer.hasToken(id))).toEqual([true, true, false, false, false])
    for (const id of [-1, 1.5, Number.NaN]) {
      expect(() => tokenizer.decode([265, id])).toThrow(new RangeError(`expected a token id, got ${id}`))
    }
  })

  it.each<[string, () => unknown, string]>([
    ['encode', () => tokenizer.encode(undefined as never), 'encode: text: expected a string, got undefined'],
    ['encode', () => tokenizer.encode(['a'] as never), 'encode: text: expected a string, got ["a"]'],
    [
      'encode',
      () => tokenizer.encode('a', { add_special_tokens: false } as never),
      'encode: unknown option add_special_tokens; did you mean addSpecialTokens?',
    ],
    ['decode', () => tokenizer.decode(5 as never), 'decode: expected a list of token ids, got 5'],
    ['decode', () => tokenizer.decode('5' as never), 'decode: expected a list of token ids, got "5"'],
  ])('%s throws a TypeError with the expected type', (_, call, message) => {
    expect(call).toThrow(new TypeError(message))
  })
})

describe('saving', () => {
  it('saves the files that it read, so that Transformers loads the same tokenizer', async () => {
    const dir = join(scratch, 'saved')
    await (await LlamaTokenizer.fromPretrained(d100)).save(dir)
    expect((await readdir(dir)).sort()).toEqual(['special_tokens_map.json', 'tokenizer.model', 'tokenizer_config.json'])
    expect(await readFile(join(dir, 'tokenizer.model'))).toEqual(await readFile(join(d100, 'tokenizer.model')))
    for (const file of ['tokenizer_config.json', 'special_tokens_map.json']) {
      const json = async (path: string) => JSON.parse(await readFile(join(path, file), 'utf8'))
      expect(await json(dir)).toEqual(await json(d100))
    }
  })

  it('saves added tokens and unused keys, but no reference to a missing file', async () => {
    const config = { pad_token: '[PAD]', chat_template: '{{ x }}', auto_map: { AutoTokenizer: ['mine.py', null] } }
    const from = await LlamaTokenizer.fromPretrained(
      await directory('extra', 'v2', { 'tokenizer_config.json': config, 'added_tokens.json': { '[PAD]': 512 } }),
    )
    const dir = join(scratch, 'saved-extra')
    await from.save(dir)
    const saved = JSON.parse(await readFile(join(dir, 'tokenizer_config.json'), 'utf8'))
    expect(saved).toMatchObject({ chat_template: '{{ x }}', pad_token: '[PAD]', tokenizer_class: 'LlamaTokenizer' })
    expect(saved).not.toHaveProperty('auto_map')
    expect(await LlamaTokenizer.fromPretrained(dir)).toMatchObject({ padTokenId: 512, vocabSize: 513 })
  })
})

describe('the chat template', () => {
  it('a new chat template replaces all others, and is saved with the key that keeps the space after BOS', async () => {
    const dir = await directory('templates', 'v2', {
      'tokenizer_config.json': { chat_template: '{{ x }}', legacy: false },
    })
    await writeFile(join(dir, 'chat_template.jinja'), '{{ y }}')
    const tokenizer = await LlamaTokenizer.fromPretrained(dir)
    expect(tokenizer.chatTemplate).toBe('{{ y }}')
    tokenizer.chatTemplate = '{{ z }}'
    const to = join(scratch, 'templates-saved')
    await tokenizer.save(to)
    expect(await readdir(to)).not.toContain('chat_template.jinja')
    const saved = JSON.parse(await readFile(join(to, 'tokenizer_config.json'), 'utf8'))
    expect(saved).toMatchObject({ chat_template: '{{ z }}', legacy: true })
    expect((await LlamaTokenizer.fromPretrained(to)).chatTemplate).toBe('{{ z }}')
    expect(ggufTokenizer(tokenizer, tokenizer.vocabSize, []).get('tokenizer.chat_template')?.value).toBe('{{ z }}')
  })
})

describe('damaged files', () => {
  const message = (dir: string): Promise<string> =>
    LlamaTokenizer.fromPretrained(dir).then(
      () => 'no error',
      (error) => {
        expect(error).toBeInstanceOf(TokenizerError)
        return error.message
      },
    )

  it('names a missing tokenizer.model', async () => {
    const dir = join(scratch, 'nowhere')
    expect(await message(dir)).toContain(`${join(dir, 'tokenizer.model')} does not exist`)
  })

  it('rejects a tokenizer.model that is cut short at any byte', async () => {
    const whole = await readFile(join(d100, 'tokenizer.model'))
    const dir = await directory('cut', 'v2')
    for (const length of [0, 1, 2, 100, 5000, whole.length - 1]) {
      await writeFile(join(dir, 'tokenizer.model'), whole.subarray(0, length))
      expect(await message(dir), `${length} bytes`).toMatch(/tokenizer\.model is not a SentencePiece model \(.+\)/)
    }
  })

  it('rejects a file that is not a SentencePiece model', async () => {
    const dir = await directory('text', 'v2')
    await writeFile(join(dir, 'tokenizer.model'), 'a vocabulary\n')
    expect(await message(dir)).toMatch(/is not a SentencePiece model/)
    await writeFile(join(dir, 'tokenizer.model'), 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n')
    expect(await message(dir)).toMatch(/Git LFS pointer/)
    await writeFile(join(dir, 'tokenizer.model'), 'IQ== 0\nIg== 1\nIw== 2\n')
    expect(await message(dir)).toMatch(/tiktoken vocabulary, as Llama 3 has it/)
    await writeFile(join(dir, 'tokenizer.model'), Buffer.from([0x0a, 0x03, 0x0a, 0x01, 0x61])) // one piece, no <unk>
    expect(await message(dir)).toMatch(/is not a SentencePiece model \(Internal: unk is not defined/)
  })

  it('names the key of a JSON file with a wrong type, or a token that the model lacks', async () => {
    const files = (config: unknown) => directory('config', 'v2', { 'tokenizer_config.json': config })
    expect(await message(await files({ add_bos_token: 'yes' }))).toMatch(
      /tokenizer_config\.json: add_bos_token: .*bool/,
    )
    expect(await message(await files({ eos_token: '<end>' }))).toMatch(/eos_token "<end>" .* not in tokenizer\.model/)
    const dir = await files({})
    await writeFile(join(dir, 'tokenizer_config.json'), '{"bos_token": ')
    expect(await message(dir)).toMatch(/tokenizer_config\.json is not valid JSON/)
  })
})
