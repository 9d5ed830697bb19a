import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { DataError, HubError } from '../../lib/errors.js'
import { type DatasetOptions, parseDatasetName, resolveDatasetPath } from '../../lib/hub/dataset.js'
import { temporaryDirectory } from '../formats/helpers.js'
import { HubServer } from '../support/hub-server.js'

const root = temporaryDirectory()
/** Large enough for Git LFS. */
const chats = `${JSON.stringify({ instruction: 'a', output: 'b' })}\n`.repeat(200)
const chatsId = createHash('sha256').update(chats).digest('hex')

let hub: HubServer
let cacheDir: string

beforeAll(async () => {
  hub = await new HubServer().start()
})
afterAll(() => hub.stop())
beforeEach(() => {
  hub.repositories.clear()
  hub.requests.length = 0
  hub.faults = []
  cacheDir = mkdtempSync(path.join(root, 'cache-'))
  hub.add('datasets/acme/chats', {
    'README.md': '# Chats',
    'dataset_infos.json': '{}',
    'a/license.txt': 'x',
    'data/chats.jsonl': chats,
  })
})

const get = (text: string, options: DatasetOptions = {}) =>
  resolveDatasetPath(text, { endpoint: hub.url, cacheDir, token: undefined, offline: false, retryDelay: 1, ...options })

async function failure(promise: Promise<unknown>): Promise<Error> {
  const error = await promise.then(
    () => new Error('it succeeded'),
    (reason) => reason,
  )
  expect(error.code).toMatch(/^(HUB_FAILED|INVALID_DATA)$/)
  return error
}

describe('downloading a data set', () => {
  it("a data set is cached like Hugging Face's tools do, and not downloaded again", async () => {
    const progress: [number, number][] = []
    const file = await get('acme/chats', { onProgress: (...counts) => progress.push(counts) })
    const commit = hub.repositories.get('datasets/acme/chats')!.branches.get('main')!
    const directory = path.join(cacheDir, 'datasets--acme--chats')
    expect(file).toEqual({
      path: path.join(directory, 'snapshots', commit, 'data/chats.jsonl'),
      name: 'acme/chats/data/chats.jsonl',
    })
    expect(readFileSync(file.path, 'utf8')).toBe(chats)
    expect(readdirSync(path.join(directory, 'blobs'))).toEqual([chatsId])
    expect(progress.at(-1)).toEqual([chats.length, chats.length])
    hub.requests.length = 0
    expect(await get('acme/chats')).toEqual(file)
    expect(hub.requests.filter((request) => /resolve|storage/.test(request.path))).toEqual([])
  })

  it('a data set is read from the cache offline, and while the Hub is unreachable', async () => {
    await expect(get('acme/chats', { offline: true })).rejects.toThrow(
      /is not in .*, and HF_HUB_OFFLINE .* pass a file/,
    )
    const file = await get('acme/chats')
    hub.requests.length = 0
    expect(await get('acme/chats', { offline: true })).toEqual(file)
    expect(await get('hf://datasets/acme/chats/data/chats.jsonl', { offline: true })).toEqual(file)
    await expect(get('hf://datasets/acme/chats/other.jsonl', { offline: true })).rejects.toThrow(/is not in/)
    const notes: string[] = []
    expect(await get('acme/chats', { endpoint: 'http://127.0.0.1:9', onNote: (note) => notes.push(note) })).toEqual(
      file,
    )
    expect(notes).toEqual([expect.stringMatching(/cannot be reached .*; acme\/chats uses an earlier download/)])
    expect(hub.requests).toEqual([])
  })

  it('a data set download resumes after a broken connection', async () => {
    const ranges: (string | undefined)[] = []
    hub.faults = [
      ({ path: asked, headers }) => {
        if (asked !== `/storage/${chatsId}`) return undefined
        ranges.push(headers.range)
        return ranges.length === 1 ? { cutAfter: 1000 } : undefined
      },
    ]
    expect(readFileSync((await get('acme/chats')).path, 'utf8')).toBe(chats)
    expect(ranges).toEqual([undefined, 'bytes=1000-'])
  })

  it('a data set of another revision can be requested', async () => {
    hub.add('datasets/acme/chats', { 'new.jsonl': '{}\n' }, { branch: 'v2' })
    expect((await get('acme/chats@v2')).name).toBe('acme/chats/new.jsonl')
    expect((await get('hf://datasets/acme/chats@v2/new.jsonl')).name).toBe('acme/chats/new.jsonl')
  })

  it('a data set download uses the endpoint, the token, and the cache of the environment', async () => {
    hub.add('datasets/acme/secret', { 'x.json': '[]' }, { private: true })
    const tokenFile = path.join(cacheDir, 'my-token')
    writeFileSync(tokenFile, `${hub.token}\n`)
    for (const [name, value] of Object.entries({
      HF_ENDPOINT: `${hub.url}/`,
      HF_TOKEN: ' ',
      HF_TOKEN_PATH: tokenFile,
      HF_HUB_CACHE: cacheDir,
    })) {
      vi.stubEnv(name, value)
    }
    try {
      expect((await resolveDatasetPath('acme/secret')).path.startsWith(cacheDir)).toBe(true)
      expect(hub.requests.every(({ headers }) => headers.authorization === `Bearer ${hub.token}`)).toBe(true)
      vi.stubEnv('HF_HUB_OFFLINE', '1')
      await expect(resolveDatasetPath('acme/chats')).rejects.toThrow(/HF_HUB_OFFLINE is set/)
    } finally {
      vi.unstubAllEnvs()
    }
  })
})

describe('the file of a data set', () => {
  it('a data set with several files uses the one with its name, or requires one to be named', async () => {
    hub.add('datasets/acme/b.c', { 'b.c.jsonl': '{}', 'test.jsonl': '{}' })
    expect((await get('acme/b.c')).name).toBe('acme/b.c/b.c.jsonl')
    expect((await get('hf://datasets/acme/b.c/test.jsonl')).name).toBe('acme/b.c/test.jsonl')
    hub.add('datasets/acme/many', { 'a.jsonl': '', 'b.json': '' })
    expect((await failure(get('acme/many'))).message).toBe(
      'acme/many has several data files (a.jsonl, b.json): name one as hf://datasets/acme/many/a.jsonl',
    )
    hub.add('datasets/acme/none', { 'a.parquet': '' })
    const error = await failure(get('acme/none'))
    expect(error).toBeInstanceOf(DataError)
    expect(error.message).toMatch(/has no file of JSON, JSON lines, or CSV/)
  })

  it('the file of a data set cannot be outside the repository', async () => {
    hub.add('datasets/acme/evil', { '../../../evil.jsonl': 'x' })
    expect((await failure(get('acme/evil'))).message).toMatch(/has no file \.\.\/\.\.\/\.\.\/evil\.jsonl/)
    expect((await failure(get('hf://datasets/acme/chats/../x.json'))).message).toMatch(/has no file/)
    expect(readdirSync(cacheDir)).toEqual([])
  })

  it('a missing file or data set gives an error with a remedy', async () => {
    hub.add('datasets/acme/secret', { 'x.json': '[]' }, { private: true })
    const message = async (text: string, options: DatasetOptions = {}) => (await failure(get(text, options))).message
    expect(await message('hf://datasets/acme/chats/x.json')).toMatch(/acme\/chats on http.* has no file x\.json/)
    for (const name of ['acme/no', 'acme/secret']) {
      expect(await message(name)).toMatch(/is not a local file, and as a data set: not on .*, or private: .* HF_TOKEN/)
    }
    expect(await message('acme/chats', { endpoint: 'http://127.0.0.1:9' })).toMatch(/cannot be reached .* network/)
    hub.faults = [({ path: asked }) => (asked === `/storage/${chatsId}` ? { cutAfter: 0 } : undefined)]
    expect(await message('acme/chats')).toMatch(/chats\.jsonl cannot be downloaded .* continues where it stopped/)
  })
})

describe('the name of a data set', () => {
  it('the name of a data set is distinguished from paths', () => {
    const whole = { revision: 'main', path: undefined }
    expect(parseDatasetName('databricks/databricks-dolly-15k')).toEqual({
      name: 'databricks/databricks-dolly-15k',
      ...whole,
    })
    expect(parseDatasetName('hf://datasets/a/b.c/d/e.jsonl')).toEqual({
      name: 'a/b.c',
      revision: 'main',
      path: 'd/e.jsonl',
    })
    expect(parseDatasetName('a/b@v1.0')).toEqual({ name: 'a/b', revision: 'v1.0', path: undefined })
    for (const text of [
      'dolly.jsonl',
      'data/dolly.jsonl',
      'data/D.JSON',
      'x/y.csv',
      './a/b',
      '/a/b',
      '../b',
      'a/b/c',
      'a',
    ]) {
      expect(parseDatasetName(text), text).toBeUndefined()
    }
  })

  it('an existing file or directory takes precedence over the name of a data set', async () => {
    const before = process.cwd()
    process.chdir(mkdtempSync(path.join(root, 'here-')))
    try {
      mkdirSync('acme')
      writeFileSync('acme/chats', 'mine')
      expect(await get('acme/chats')).toEqual({ path: 'acme/chats', name: 'acme/chats' })
      expect(await get('./none.jsonl')).toEqual({ path: './none.jsonl', name: './none.jsonl' })
    } finally {
      process.chdir(before)
    }
    expect(hub.requests).toEqual([])
  })

  it.each([
    ['https://huggingface.co/datasets/acme/chats', 'use acme/chats'],
    ['https://huggingface.co/datasets/acme/chats/viewer/default/train?row=1', 'use acme/chats'],
    ['https://hf.co/datasets/acme/chats/blob/main/data/chats.jsonl', 'use hf://datasets/acme/chats/data/chats.jsonl'],
    ['huggingface.co/datasets/acme/chats/tree/v2', 'use acme/chats@v2'],
    ['https://huggingface.co/acme/llama', 'is a model on the Hub'],
  ])('the address %s gives an error with the name to use', async (address, advice) => {
    const error = await failure(get(address))
    expect(error).toBeInstanceOf(HubError)
    expect(error.message).toContain(advice)
  })
})
