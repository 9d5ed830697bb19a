import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { HubError } from '../../lib/errors.js'
import { type DownloadOptions, downloadModel, resolveModelPath } from '../../lib/hub/download.js'
import { hubSettings, parseModelName } from '../../lib/hub/settings.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import { temporaryDirectory } from '../formats/helpers.js'
import { fixtures } from '../support/fixtures.js'
import { gitId, HubServer } from '../support/hub-server.js'

const root = temporaryDirectory()
const d100 = path.join(fixtures, 'd100')
const weights = readFileSync(path.join(d100, 'model.safetensors'))
const model: Record<string, Buffer> = {
  ...Object.fromEntries(
    [
      'config.json',
      'generation_config.json',
      'tokenizer.model',
      'tokenizer_config.json',
      'special_tokens_map.json',
    ].map((name) => [name, readFileSync(path.join(d100, name))]),
  ),
  'model.safetensors': weights,
}
const weightsId = createHash('sha256').update(weights).digest('hex')
const clutter = {
  'README.md': '# d100',
  'pytorch_model.bin': Buffer.alloc(5000, 1),
  'flax_model.msgpack': Buffer.alloc(5000, 2),
  'onnx/model.onnx': Buffer.alloc(5000, 3),
}

let hub: HubServer
let cacheDir: string
let commit: string

beforeAll(async () => {
  hub = await new HubServer().start()
})
afterAll(() => hub.stop())
beforeEach(() => {
  hub.repositories.clear()
  hub.requests.length = 0
  hub.faults = []
  cacheDir = mkdtempSync(path.join(root, 'cache-'))
  commit = hub.add('acme/llama', { ...clutter, ...model })
})

const named = { name: 'acme/llama', revision: 'main' }
const directory = () => path.join(cacheDir, 'models--acme--llama')

function download(options: DownloadOptions = {}, which = named): Promise<string> {
  return downloadModel(which, {
    endpoint: hub.url,
    cacheDir,
    token: undefined,
    offline: false,
    retryDelay: 1,
    ...options,
  })
}

async function failure(promise: Promise<unknown>): Promise<HubError> {
  const error = await promise.then(
    () => new Error('it succeeded'),
    (reason) => reason,
  )
  expect(error).toBeInstanceOf(HubError)
  return error
}

const downloads = () =>
  hub.requests.filter(({ path: asked }) => asked.includes('/resolve/')).map(({ path: asked }) => path.basename(asked))

describe('downloading a model', () => {
  it("a model is cached in the layout of Hugging Face's tools, without unneeded files", async () => {
    const progress: [number, number][] = []
    const snapshot = await download({ onProgress: (...counts) => progress.push(counts) })
    expect(snapshot).toBe(path.join(directory(), 'snapshots', commit))
    expect(readdirSync(snapshot).sort()).toEqual(Object.keys(model).sort())
    expect(readFileSync(path.join(directory(), 'refs/main'), 'utf8')).toBe(commit)
    const link = readlinkSync(path.join(snapshot, 'config.json'))
    expect(link).toBe(`../../blobs/${gitId(model['config.json']!)}`)
    const blob = path.basename(realpathSync(path.join(snapshot, 'model.safetensors')))
    expect(blob).toMatch(/^[0-9a-f]{64}$/)
    expect(readdirSync(path.join(directory(), 'blobs'))).toHaveLength(6)
    for (const [name, data] of Object.entries(model)) {
      expect(readFileSync(path.join(snapshot, name)).equals(data), name).toBe(true)
    }
    expect(progress.at(-1)).toEqual([weights.length, weights.length])
  })

  it('a model is not downloaded again, and of a new commit only new files are', async () => {
    await download()
    hub.requests.length = 0
    await download()
    expect(downloads()).toEqual([])
    const next = hub.add('acme/llama', { ...clutter, ...model, 'generation_config.json': '{"max_length": 7}' })
    const snapshot = await download()
    expect(path.basename(snapshot)).toBe(next)
    expect(downloads()).toEqual(['generation_config.json'])
    expect(readdirSync(path.join(directory(), 'snapshots')).sort()).toEqual([commit, next].sort())
  })

  it('a model of another branch or of a commit can be requested', async () => {
    const other = hub.add(
      'acme/llama',
      { ...model, 'generation_config.json': '{"max_length": 8}' },
      { branch: 'refs/pr/1' },
    )
    expect(path.basename(await download({}, { ...named, revision: 'refs/pr/1' }))).toBe(other)
    expect(readFileSync(path.join(directory(), 'refs/refs/pr/1'), 'utf8')).toBe(other)
    expect(path.basename(await download({}, { ...named, revision: commit }))).toBe(commit)
    expect((await failure(download({}, { ...named, revision: 'nope' }))).message).toMatch(
      /check the name and the revision/,
    )
  })

  it('a model in shards is downloaded, and torch files if there is no safetensors', async () => {
    const { 'model.safetensors': _, ...small } = model
    const index = (ext: string, stem: string) =>
      JSON.stringify({
        metadata: {},
        weight_map: { a: `${stem}-00001-of-00002.${ext}`, b: `${stem}-00002-of-00002.${ext}` },
      })
    hub.add('acme/sharded', {
      ...small,
      'model-00001-of-00002.safetensors': Buffer.alloc(3000, 1),
      'model-00002-of-00002.safetensors': Buffer.alloc(3000, 2),
      'model.safetensors.index.json': index('safetensors', 'model'),
      'pytorch_model.bin': Buffer.alloc(3000, 3),
    })
    const sharded = readdirSync(await download({}, { ...named, name: 'acme/sharded' }))
    expect(sharded.filter((name) => /safetensors|bin/.test(name)).sort()).toEqual([
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
    ])
    hub.add('acme/torch', {
      ...small,
      'pytorch_model-00001-of-00002.bin': Buffer.alloc(3000, 4),
      'pytorch_model-00002-of-00002.bin': Buffer.alloc(3000, 5),
      'pytorch_model.bin.index.json': index('bin', 'pytorch_model'),
    })
    expect(readdirSync(await download({}, { ...named, name: 'acme/torch' }))).toContain(
      'pytorch_model-00002-of-00002.bin',
    )
  })

  it('a download resumes at the break, however often the connection breaks', async () => {
    const third = Math.floor(weights.length / 3)
    const ranges: (string | undefined)[] = []
    hub.faults = [
      ({ path: asked, headers }) => {
        if (asked !== `/storage/${weightsId}`) return undefined
        ranges.push(headers.range)
        return ranges.length <= 2 ? { cutAfter: third } : undefined
      },
    ]
    const snapshot = await download()
    // Data in flight when the connection broke may be lost, so that the next request asks for it again.
    const starts = ranges.map((range) => Number(/^bytes=(\d+)-$/.exec(range ?? 'bytes=0-')?.[1]))
    expect(starts).toHaveLength(3)
    expect(starts[0]).toBe(0)
    expect(starts[1]).toBeGreaterThan(0)
    expect(starts[1]).toBeLessThanOrEqual(third)
    expect(starts[2]).toBeGreaterThan(starts[1]!)
    expect(starts[2]).toBeLessThanOrEqual(starts[1]! + third)
    expect(readFileSync(path.join(snapshot, 'model.safetensors')).equals(weights)).toBe(true)
  })

  it('a later process resumes a download, and verifies the part of the first', async () => {
    const asked: (string | undefined)[] = []
    let broken = true
    hub.faults = [
      ({ path: file, headers }) => {
        if (file !== `/storage/${weightsId}`) return undefined
        asked.push(headers.range)
        if (!broken) return undefined
        return headers.range ? { status: 404 } : { cutAfter: 1000 }
      },
    ]
    expect((await failure(download())).message).toMatch(/model\.safetensors: not found/)
    expect(() => lstatSync(path.join(directory(), 'refs/main'))).toThrow(/ENOENT/)
    const [left] = readdirSync(path.join(directory(), 'blobs')).filter((name) => name.includes('.incomplete-'))
    expect(readFileSync(path.join(directory(), 'blobs', left!))).toEqual(weights.subarray(0, 1000))
    broken = false
    asked.length = 0
    await download()
    expect(asked).toEqual(['bytes=1000-'])
    expect(readdirSync(path.join(directory(), 'blobs')).filter((name) => name.includes('incomplete'))).toEqual([])

    // The same with a damaged part: it is deleted, and everything is downloaded.
    rmSync(path.join(directory(), 'blobs', weightsId))
    writeFileSync(path.join(directory(), 'blobs', left!), Buffer.alloc(500, 7))
    asked.length = 0
    const snapshot = await download()
    expect(asked).toEqual(['bytes=500-', undefined])
    expect(readFileSync(path.join(snapshot, 'model.safetensors')).equals(weights)).toBe(true)
  })

  it('a download restarts if the server cannot resume in the middle', async () => {
    let first = true
    hub.faults = [
      ({ path: asked, headers }) => {
        if (asked !== `/storage/${weightsId}`) return undefined
        if (headers.range) delete headers.range // as if the server did not support it
        if (!first) return undefined
        first = false
        return { cutAfter: 1000 }
      },
    ]
    const progress: number[] = []
    const snapshot = await download({ onProgress: (received) => progress.push(received) })
    expect(readFileSync(path.join(snapshot, 'model.safetensors')).equals(weights)).toBe(true)
    expect(progress.at(-1)).toBe(weights.length)
  })

  it('a file with a wrong checksum is rejected and deleted', async () => {
    const wrong = Buffer.from(weights)
    wrong[wrong.length - 1] ^= 1
    hub.faults = [({ path: asked }) => (asked === `/storage/${weightsId}` ? { replaceBy: wrong } : undefined)]
    expect((await failure(download())).message).toMatch(/model\.safetensors has a different checksum/)
    expect(readdirSync(path.join(directory(), 'blobs')).filter((name) => name.startsWith(weightsId))).toEqual([])
    hub.faults = [
      ({ path: asked }) =>
        asked.endsWith('/config.json') ? { replaceBy: Buffer.alloc(model['config.json']!.length, 32) } : undefined,
    ]
    cacheDir = mkdtempSync(path.join(root, 'cache-'))
    expect((await failure(download())).message).toMatch(/config\.json has a different checksum/)
  })

  it('the token is sent to the Hub, and not to the storage that it redirects to', async () => {
    hub.add(
      'acme/secret',
      { ...model, 'model.safetensors': Buffer.concat([weights, Buffer.alloc(8)]) },
      { private: true },
    )
    const secret = { ...named, name: 'acme/secret' }
    await download({ token: hub.token }, secret)
    const [own, storage] = [
      hub.requests.filter(({ host }) => host.startsWith('127.0.0.1')),
      hub.requests.filter(({ host }) => host.startsWith('localhost')),
    ]
    expect(own.every(({ headers }) => headers.authorization === 'Bearer hf_good')).toBe(true)
    expect(storage.length).toBeGreaterThan(0)
    expect(storage.every(({ headers }) => headers.authorization === undefined)).toBe(true)
  })
})

describe('failing downloads', () => {
  it('a private, gated, unknown, or incomplete model gives an error with a remedy', async () => {
    hub.add('acme/secret', model, { private: true })
    hub.add('acme/gated', model, { gated: true })
    hub.add('acme/gguf', { 'config.json': '{}', 'tokenizer.model': 'x', 'model.gguf': 'x' })
    hub.add('acme/fast', { 'config.json': '{}', 'tokenizer.json': '{}' })
    const message = async (name: string, token?: string) =>
      (await failure(download({ token }, { ...named, name }))).message
    expect(await message('acme/none')).toMatch(
      /acme\/none is not a local directory, and as a model: not on .*, or private: .* HF_TOKEN/,
    )
    expect(await message('acme/none', hub.token)).toMatch(/not found/)
    expect(await message('acme/secret')).toMatch(/or private: check the name, or set HF_TOKEN/)
    expect(await message('acme/secret', 'hf_bad')).toMatch(/or private/)
    expect(await message('acme/gated')).toMatch(/accept the terms/)
    expect(await message('acme/gguf')).toMatch(/no weights as safetensors or torch \.bin; .*model\.gguf/)
    expect(await message('acme/fast')).toMatch(/has no tokenizer\.model/)
  })

  it('requests are retried while the Hub is busy, and fail if it stays busy', async () => {
    let refusals = 2
    hub.faults = [() => (refusals-- > 0 ? { status: 429, headers: { 'retry-after': '0' } } : undefined)]
    await download()
    expect(refusals).toBeLessThan(0)
    cacheDir = mkdtempSync(path.join(root, 'cache-'))
    hub.faults = [() => ({ status: 429, headers: { 'retry-after': '0' } })]
    expect((await failure(download())).message).toMatch(/too many requests/)
    hub.faults = [() => ({ status: 429, headers: { 'retry-after': '9999' } })]
    hub.requests.length = 0
    await failure(download())
    expect(hub.requests).toHaveLength(1) // it doesn't wait for hours
    hub.faults = [() => ({ status: 503, body: 'down' })]
    expect((await failure(download())).message).toMatch(/cannot be reached \(.* answered 503/)
  })

  it('an earlier download is used without network access, or when it is disabled', async () => {
    const nowhere = { endpoint: 'http://127.0.0.1:9' }
    expect((await failure(download(nowhere))).message).toMatch(/cannot be reached .*: check the network or the path/)
    expect((await failure(download({ offline: true }))).message).toMatch(/HF_HUB_OFFLINE is set/)
    const snapshot = await download()
    hub.requests.length = 0
    const notes: string[] = []
    expect(await download({ ...nowhere, onNote: (note) => notes.push(note) })).toBe(snapshot)
    expect(notes).toEqual([expect.stringMatching(/cannot be reached .*; acme\/llama uses an earlier download/)])
    expect(await download({ offline: true })).toBe(snapshot)
    expect(await download({ offline: true }, { ...named, revision: commit })).toBe(snapshot)
    expect(hub.requests).toEqual([])
    rmSync(path.join(snapshot, 'model.safetensors'))
    expect((await failure(download({ offline: true }))).message).toMatch(/is not in /)
    expect(await download({ offline: true, parts: 'tokenizer' })).toBe(snapshot)
  })

  it('an abort ends a download at once', async () => {
    const stop = new AbortController()
    hub.faults = [
      () => {
        stop.abort()
        return undefined
      },
    ]
    await expect(download({ signal: stop.signal })).rejects.toThrow(/abort/i)
  })

  it('an unwritable cache is reported', async () => {
    const file = path.join(cacheDir, 'file')
    writeFileSync(file, 'mine')
    const error = await downloadModel(
      { name: 'acme/llama', revision: 'main' },
      { endpoint: hub.url, cacheDir: file, offline: false },
    ).catch((reason: Error) => reason)
    expect(String(error)).toMatch(/Cannot save .*models--acme--llama: a part of its path is a file/)
    expect(readFileSync(file, 'utf8')).toBe('mine')
  })

  it('a download cannot write outside the cache', async () => {
    const { 'model.safetensors': _, ...small } = model
    const index = JSON.stringify({ weight_map: { a: '../../../../evil.safetensors' } })
    hub.add('acme/evil', { ...small, 'model.safetensors.index.json': index, '../../../../evil.safetensors': 'x' })
    await expect(download({}, { ...named, name: 'acme/evil' })).rejects.toThrow(
      /not the name of a weight file in the same directory/,
    )
    expect(readdirSync(cacheDir)).toEqual(['models--acme--evil'])
  })
})

describe('a read-only cache', () => {
  /** Runs as a user who owns none of it; root could write anyway. */
  async function asAnother<T>(work: () => Promise<T>): Promise<T> {
    const isRoot = process.geteuid!() === 0
    execFileSync('chmod', ['-R', 'a+rX,a-w', cacheDir])
    chmodSync(root, 0o755)
    if (isRoot) process.seteuid!(65534)
    try {
      return await work()
    } finally {
      if (isRoot) process.seteuid!(0)
      execFileSync('chmod', ['-R', 'u+w', cacheDir])
    }
  }

  it('a read-only cache is used if it has all files, while the Hub is reachable', async () => {
    const snapshot = await download()
    const notes: string[] = []
    const onNote = (note: string) => void notes.push(note)
    expect(await asAnother(() => download({ onNote }))).toBe(snapshot)
    expect(await asAnother(() => download({ onNote, parts: 'tokenizer' }))).toBe(snapshot)
    rmSync(path.join(directory(), 'refs'), { recursive: true }) // including a branch that it has no record of
    expect(await asAnother(() => download({ onNote }))).toBe(snapshot)
    expect(notes).toEqual([])
  })

  it('a read-only cache is used if the Hub has something newer, with a note', async () => {
    const snapshot = await download()
    hub.add('acme/llama', { ...clutter, ...model, 'generation_config.json': '{"max_length": 7}' })
    const notes: string[] = []
    expect(await asAnother(() => download({ onNote: (note) => notes.push(note) }))).toBe(snapshot)
    expect(notes).toEqual([expect.stringMatching(/may not be written, and .* is older than commit \w{7}; the older/)])
  })

  it('a read-only cache that lacks a file is an error', async () => {
    await download({ parts: 'tokenizer' })
    const error = await asAnother(() => download().catch((reason: Error) => reason))
    expect(String(error)).toMatch(/Cannot save .*models--acme--llama: this user may not write there/)
  })

  it('a complete cache is not modified, even if it is writable', async () => {
    await download()
    const state = () =>
      readdirSync(directory(), { recursive: true, encoding: 'utf8' })
        .sort()
        .map((name) => [name, lstatSync(path.join(directory(), name)).mtimeMs])
    const before = state()
    await download()
    expect(state()).toEqual(before)
  })
})

describe('invalid connection settings', () => {
  const message = async (options: DownloadOptions, which = named) => (await failure(download(options, which))).message

  it.each([
    ['hf-mirror.example', 'https://hf-mirror.example'],
    ['//hf-mirror.example', 'https://hf-mirror.example'],
    ['htps://hf-mirror.example', 'https://hf-mirror.example'],
    ['localhost:8080', 'https://localhost:8080'],
    ['https://', 'https://huggingface.co'],
  ])('the endpoint %s is rejected, with a suggestion', async (endpoint, better) => {
    expect(await message({ endpoint })).toBe(
      `HF_ENDPOINT is "${endpoint.replace(/\/+$/, '')}"; expected the URL of a Hub with its scheme: set it to ${better}`,
    )
  })

  it('the endpoint is not needed when requests are disabled', async () => {
    const snapshot = await download()
    expect(await download({ endpoint: 'nonsense', offline: true })).toBe(snapshot)
  })

  it.each([
    ['hf_gööd“', 'U+00F6, character 5'],
    ['hf_a\nb', 'U+000A'],
    ['hf_a b', 'U+0020'],
    ['hf_\u200bgood', 'U+200B'],
  ])('the token %j is rejected, and not shown', async (token, found) => {
    const text = await message({ token })
    expect(text).toContain(found)
    expect(text).toMatch(/copy it again from .*\/settings\/tokens/)
    expect(text).not.toContain(token)
    expect(hub.requests).toEqual([])
  })

  it('a mirror that redirects to another host, which gets no token, is explained', async () => {
    hub.add('acme/secret', model, { private: true })
    const mirror = createServer((request, response) => {
      response.writeHead(308, { location: hub.storageUrl + request.url }).end()
    }).listen(0, '127.0.0.1')
    await once(mirror, 'listening')
    const endpoint = `http://127.0.0.1:${(mirror.address() as AddressInfo).port}`
    const secret = { ...named, name: 'acme/secret' }
    try {
      expect(await message({ endpoint, token: hub.token }, secret)).toBe(
        `acme/secret is not a local directory, and as a model: ${endpoint} sends requests on to ${hub.storageUrl}, which refuses ` +
          `them (401) and does not get your token: set HF_ENDPOINT to ${hub.storageUrl} if you trust it with the token`,
      )
      expect(await message({ endpoint }, secret)).toMatch(/or private: .* set HF_TOKEN/) // there is no token to send
      await download({ endpoint, token: hub.token }) // a public model needs no token
    } finally {
      mirror.closeAllConnections()
      mirror.close()
    }
  })

  it('a web page in place of JSON is explained', async () => {
    const page = { status: 200, headers: { 'content-type': 'text/html; charset=utf-8' }, body: '<html>\n Sign in' }
    hub.faults = [() => page]
    const sentence = 'answered with something else than JSON (text/html: "<html> Sign in"): check HF_ENDPOINT'
    expect(await message({})).toContain(`acme/llama is not a local directory, and ${hub.url} ${sentence}`)
    hub.faults = [({ path: asked }) => (asked.includes('/tree/') ? page : undefined)]
    expect(await message({})).toContain(sentence)
    hub.faults = [({ path: asked }) => (asked.includes('/tree/') ? { status: 200, body: '{}' } : undefined)]
    expect(await message({})).toContain('gives no list of files')
    for (const body of ['null', '{}', '"x"', '{"sha": 1}']) {
      hub.faults = [() => ({ status: 200, body })]
      expect(await message({})).toContain('gives no commit')
    }
    hub.faults = []
    const snapshot = await download()
    hub.faults = [() => page]
    expect(await download()).toBe(snapshot)
  })
})

describe('the path of a model', () => {
  const settings = () => ({ endpoint: hub.url, cacheDir, token: undefined, offline: false })

  it('a directory takes precedence over a model of that name on the Hub', async () => {
    const before = process.cwd()
    const here = mkdtempSync(path.join(root, 'here-'))
    mkdirSync(path.join(here, 'acme/llama'), { recursive: true })
    process.chdir(here)
    try {
      expect(await resolveModelPath('acme/llama', settings())).toBe('acme/llama')
    } finally {
      process.chdir(before)
    }
    expect(hub.requests).toEqual([])
    expect(await resolveModelPath('acme/llama', settings())).toBe(path.join(directory(), 'snapshots', commit))
    expect(await resolveModelPath('./acme/none', settings())).toBe('./acme/none')
  })

  it('paths are distinguished from names on the Hub', () => {
    expect(parseModelName('openlm-research/open_llama_3b_v2')).toEqual({
      name: 'openlm-research/open_llama_3b_v2',
      revision: 'main',
    })
    expect(parseModelName('a/b.c@v1.0')).toEqual({ name: 'a/b.c', revision: 'v1.0' })
    for (const text of ['a', './a/b', '../a', '/a/b', 'a/b/c', 'a/..', 'a/b@../x', '~/a', 'a/b--c']) {
      expect(parseModelName(text), text).toBeUndefined()
    }
  })

  it.each([
    ['https://huggingface.co/acme/llama', 'acme/llama'],
    ['http://www.huggingface.co/acme/llama/', 'acme/llama'],
    ['HTTPS://HuggingFace.co/acme/llama?x=1#readme', 'acme/llama'],
    ['https://huggingface.co/acme/llama/tree/main', 'acme/llama'],
    ['https://huggingface.co/acme/llama/tree/v1.0', 'acme/llama@v1.0'],
    ['https://huggingface.co/acme/llama/tree/refs%2Fpr%2F1', 'acme/llama@refs/pr/1'],
    ['https://huggingface.co/acme/llama/tree/refs/pr/1', 'acme/llama@refs/pr/1'],
    ['https://huggingface.co/acme/llama/blob/main/config.json', 'acme/llama'],
    ['https://huggingface.co/acme/llama/discussions', 'acme/llama'],
    ['huggingface.co/acme/llama', 'acme/llama'],
    ['hf.co/acme/llama', 'acme/llama'],
    ['https://hf.co/acme/llama', 'acme/llama'],
    ['hf://acme/llama', 'acme/llama'],
    ['hf://models/acme/llama', 'acme/llama'],
  ])('the address %s gives an error with the name of the model', async (address, name) => {
    const error = await failure(resolveModelPath(address, settings()))
    expect(error.message).toBe(
      `${address} is an address; expected a directory, or a model's name on the Hub (owner/name): use ${name}`,
    )
    expect(parseModelName(name)).toBeDefined()
  })

  it('any other address is rejected', async () => {
    const message = async (address: string) => (await failure(resolveModelPath(address, settings()))).message
    expect(await message(`${hub.url}/acme/llama`)).toMatch(/use acme\/llama$/)
    expect(await message('https://huggingface.co/datasets/acme/chats')).toMatch(
      /is the address of a data set; expected/,
    )
    expect(await message('https://example.org/model.gguf')).toMatch(/is an address; expected .*\(owner\/name\)$/)
    expect(await resolveModelPath('./hf.co/acme/llama', settings())).toBe('./hf.co/acme/llama')
    expect(hub.requests).toEqual([])
  })

  it('fromPretrained of model and tokenizer accepts the name of a model on the Hub', async () => {
    vi.stubEnv('HF_ENDPOINT', `${hub.url}/`)
    vi.stubEnv('HF_HUB_CACHE', cacheDir)
    try {
      const tokenizer = await LlamaTokenizer.fromPretrained('acme/llama')
      expect(tokenizer.vocabSize).toBe(512)
      expect(downloads()).not.toContain('model.safetensors')
      using loaded = await LlamaForCausalLM.fromPretrained('acme/llama', { device: 'cpu', dtype: 'float32' })
      expect(loaded.config.headDim).toBe(100)
    } finally {
      vi.unstubAllEnvs()
    }
  })
})

describe('environment variables', () => {
  it('environment variables set the Hub and the cache, under their usual names', () => {
    expect(
      hubSettings({
        HOME: '/h',
        HF_HOME: '/hf',
        HF_ENDPOINT: 'http://mirror/',
        HF_TOKEN: 'hf_a ',
        HF_HUB_OFFLINE: '1',
      }),
    ).toEqual({
      endpoint: 'http://mirror',
      token: 'hf_a',
      cacheDir: '/hf/hub',
      offline: true,
    })
    expect(hubSettings({ HF_HOME: '/hf', HF_HUB_CACHE: '/c' }).cacheDir).toBe('/c')
    expect(hubSettings({ XDG_CACHE_HOME: '/x' })).toMatchObject({ cacheDir: '/x/huggingface/hub', offline: false })
    expect(hubSettings({ XDG_CACHE_HOME: '/x' }).endpoint).toBe('https://huggingface.co')
    expect(hubSettings({ HF_ENDPOINT: ' ', TRANSFORMERS_OFFLINE: '1' })).toMatchObject({
      endpoint: 'https://huggingface.co',
      offline: true,
    })
    expect(hubSettings({ HF_TOKEN: 'hf_good\r\n' }).token).toBe('hf_good')
    writeFileSync(path.join(root, 'token'), 'hf_stored\n')
    expect(hubSettings({ HF_HOME: root }).token).toBe('hf_stored')
  })
})
