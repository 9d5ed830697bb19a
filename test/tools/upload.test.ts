import { cpSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ConfigError, HubError } from '../../lib/errors.js'
import { downloadModel } from '../../lib/hub/download.js'
import { type UploadOptions, uploadModel } from '../../lib/tools/upload.js'
import { temporaryDirectory } from '../formats/helpers.js'
import { fixtures } from '../support/fixtures.js'
import { HubServer } from '../support/hub-server.js'

const root = temporaryDirectory()
const weights = readFileSync(path.join(fixtures, 'd100/model.safetensors'))

let hub: HubServer
let model: string

beforeAll(async () => {
  hub = await new HubServer().start()
})
afterAll(() => hub.stop())
beforeEach(async () => {
  hub.stop() // a new one, since the storage would know the files of the previous test
  hub = await new HubServer().start()
  model = path.join(mkdtempSync(path.join(root, 'model-')), 'd100')
  cpSync(path.join(fixtures, 'd100'), model, { recursive: true })
  mkdirSync(path.join(model, 'checkpoint-5'))
  writeFileSync(path.join(model, 'checkpoint-5/rank-0.safetensors'), 'x')
  writeFileSync(path.join(model, '.hidden'), 'x')
  writeFileSync(path.join(model, 'README.md'), '# Mine')
})

function upload(options: UploadOptions = {}, repo = 'me/mine') {
  return uploadModel(model, repo, { endpoint: hub.url, token: hub.token, offline: false, retryDelay: 1, ...options })
}

async function failure(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => new Error('it succeeded'),
    (reason) => reason,
  )
  expect(error).toBeInstanceOf(HubError)
  return error.message
}

const expectedFiles = [
  'README.md',
  'config.json',
  'generation_config.json',
  'model.safetensors',
  'special_tokens_map.json',
  'tokenizer.model',
  'tokenizer_config.json',
]

describe('uploading a model', () => {
  it.each([undefined, 200_000])(
    'uploadModel creates the repository and commits the files, sent in parts of %s bytes',
    async (partSize) => {
      hub.partSize = partSize
      const progress: [number, number][] = []
      const { url, files } = await upload({ private: true, onProgress: (...counts) => progress.push(counts) })
      expect(files).toEqual(expectedFiles)
      expect(url).toMatch(/\/me\/mine\/commit\/[0-9a-f]{40}$/)
      const there = hub.files('me/mine')!
      expect([...there.keys()].sort()).toEqual(expectedFiles)
      for (const [name, data] of there) expect(data.equals(readFileSync(path.join(model, name))), name).toBe(true)
      expect(hub.repositories.get('me/mine')!.private).toBe(true)
      const [sent, total] = progress.at(-1)!
      expect(sent).toBe(total)
      expect(progress[0]![0]).toBeLessThan(total)
      const storage = hub.requests.filter(({ host }) => host.startsWith('localhost'))
      expect(storage.every(({ headers }) => headers.authorization === undefined)).toBe(true)
    },
  )

  it('downloading by name restores the uploaded files', async () => {
    await upload()
    const snapshot = await downloadModel(
      { name: 'me/mine', revision: 'main' },
      { endpoint: hub.url, cacheDir: path.join(root, 'cache'), offline: false },
    )
    expect(readFileSync(path.join(snapshot, 'model.safetensors')).equals(weights)).toBe(true)
  })

  it('uploadModel creates a branch, and uses an existing repository', async () => {
    hub.add('me/mine', { 'other.txt': 'kept' })
    await upload({ revision: 'v2', message: 'Second' })
    expect([...hub.files('me/mine')!.keys()]).toEqual(['other.txt'])
    expect([...hub.files('me/mine', 'v2')!.keys()].sort()).toEqual([...expectedFiles, 'other.txt'].sort())
    await upload({ revision: 'v2' })
  })

  it('uploadModel resumes after an interruption, and shows nothing before it is complete', async () => {
    hub.faults = [({ path: asked }) => (asked.includes('/commit/') ? { status: 400, body: 'broken' } : undefined)]
    expect(await failure(upload())).toMatch(/refused the upload with 400/)
    expect(hub.files('me/mine')).toBeUndefined()
    hub.faults = []
    hub.requests.length = 0
    await upload()
    expect(hub.requests.filter(({ method }) => method === 'PUT')).toEqual([])
    expect(hub.files('me/mine')!.get('model.safetensors')!.equals(weights)).toBe(true)
  })

  it('uploadModel retries when the storage is busy', async () => {
    let refusals = 2
    hub.faults = [({ method }) => (method === 'PUT' && refusals-- > 0 ? { status: 503 } : undefined)]
    await upload()
    expect(hub.files('me/mine')!.get('model.safetensors')!.equals(weights)).toBe(true)
  })

  it('uploadModel is rejected without a token, with an unknown token, without permission, or offline', async () => {
    expect(await failure(upload({ token: '' }))).toMatch(/needs a token with the right to write/)
    expect(await failure(upload({ token: 'hf_bad' }))).toMatch(/does not know your token: make a new one at/)
    hub.faults = [
      ({ path: asked }) => (asked === '/api/repos/create' ? { status: 403, body: '{"error":"read only"}' } : undefined),
    ]
    expect(await failure(upload())).toMatch(/your token has no permission to do that .*: read only/)
    expect(await failure(upload({ offline: true }))).toMatch(/HF_HUB_OFFLINE/)
    expect(await failure(upload({ endpoint: 'http://127.0.0.1:9' }))).toMatch(/cannot be uploaded .* check the network/)
    expect(await failure(upload({}, 'mine'))).toMatch(/owner\/name/)
  })

  it('uploadModel rejects a directory that is not a complete model', async () => {
    writeFileSync(
      path.join(model, 'model.safetensors.index.json'),
      '{"weight_map":{"a":"model-00001-of-00002.safetensors"}}',
    )
    await expect(upload()).rejects.toThrow(/contains its weights twice/)
    model = path.join(model, 'checkpoint-5')
    await expect(upload()).rejects.toThrow(ConfigError)
    expect(hub.requests).toEqual([])
  })
})
