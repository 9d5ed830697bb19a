import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { temporaryDirectory } from '../formats/helpers.js'
import { fixtures } from '../support/fixtures.js'
import { HubServer } from '../support/hub-server.js'
import { main } from '../support/small-run.js'

const root = temporaryDirectory()
const hub = new HubServer()
beforeAll(() => hub.start())
afterAll(() => hub.stop())

/** Runs a command until it waits for a Hub request that is never answered, then sends SIGINT. */
async function stopAt(request: RegExp, ...args: string[]): Promise<{ code: number | null; errors: string }> {
  const child = spawn(process.execPath, [main, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, HF_ENDPOINT: hub.url, HF_TOKEN: hub.token },
  })
  let errors = ''
  child.stderr.on('data', (text) => (errors += text))
  hub.faults = [
    ({ method, path }) => {
      if (!request.test(`${method} ${path}`)) return undefined
      child.kill('SIGINT')
      return 'silence'
    },
  ]
  const [code] = await once(child, 'close')
  return { code, errors }
}

it('push interrupted by Ctrl-C during an upload exits with 130 and commits nothing', async () => {
  const model = path.join(fixtures, 'd100')
  const { code, errors } = await stopAt(/^PUT \/storage/, 'push', '--model_path', model, '--repo', 'me/mine')
  expect({ code, errors }).toEqual({ code: 130, errors: 'stopped; nothing was committed\n' })
  expect(hub.repositories.get('me/mine')!.commits.size).toBe(0)
})

it('train interrupted by Ctrl-C while it downloads the model exits with 130 and writes nothing', async () => {
  const flags = ['--model_path', 'me/model', '--data_path', path.join(fixtures, 'instructions.json')]
  const { code, errors } = await stopAt(/^GET \/api\/models/, 'train', ...flags, '--save_path', path.join(root, 'run'))
  expect({ code, errors }).toEqual({
    code: 130,
    errors: 'the download stopped; run the same command again to continue it\n',
  })
  expect(readdirSync(root)).toEqual([])
})

it('process-dataset interrupted by Ctrl-C while it downloads exits with 130 and writes nothing', async () => {
  const files = ['--input', 'me/rows', '--output', path.join(root, 'rows.json')]
  const { code, errors } = await stopAt(/^GET \/api\/datasets/, 'process-dataset', ...files)
  expect({ code, errors }).toEqual({ code: 130, errors: 'stopped; nothing was written\n' })
  expect(readdirSync(root)).toEqual([])
})
