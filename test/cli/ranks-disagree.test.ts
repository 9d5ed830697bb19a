import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { freePort } from '../../lib/parallel/launcher.js'
import { Rendezvous } from '../../lib/parallel/rendezvous.js'
import { fixtures } from '../support/fixtures.js'
import { smallRun } from '../support/small-run.js'

const root = mkdtempSync(path.join(tmpdir(), 'disagree-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

/** Machines as they appear to a rank: directories with data of the same name. */
const machine = (name: string) => path.join(root, name)
beforeAll(() => {
  for (const name of ['a', 'b']) mkdirSync(machine(name))
  cpSync(path.join(fixtures, 'instructions.json'), path.join(machine('a'), 'data.json'))
  const rows = JSON.parse(readFileSync(path.join(fixtures, 'instructions.json'), 'utf8'))
  writeFileSync(path.join(machine('b'), 'data.json'), JSON.stringify(rows.toReversed()))
})

/** One of two ranks, started like torchrun starts it; returns its error output. */
async function rank(number: number, port: number, { on = 'a', flags = {} as Record<string, unknown> } = {}) {
  const args = smallRun({ data_path: 'data.json', save_path: path.join(root, 'run'), max_steps: 2, ...flags })
  const place = {
    RANK: `${number}`,
    WORLD_SIZE: '2',
    LOCAL_RANK: '0',
    MASTER_ADDR: '127.0.0.1',
    MASTER_PORT: `${port}`,
  }
  const child = spawn(process.execPath, args, {
    cwd: machine(on),
    env: { ...process.env, ...place, OMP_NUM_THREADS: '1' },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let errors = ''
  child.stderr.on('data', (text) => {
    errors += text
  })
  expect(await once(child, 'close')).toEqual([1, null])
  return errors
}

describe('ranks that were not started for the same run', () => {
  it('ranks with different recipes exit with the key and both values', async () => {
    const port = await freePort()
    const told = await Promise.all([rank(0, port), rank(1, port, { flags: { weight_decay: 0.5 } })])
    for (const text of told) {
      expect(text).toMatch(/^error: the ranks disagree on weight_decay: rank 0 has 0\.001, and rank 1 has 0\.5; start/)
    }
  })

  it('ranks with different data of the same name exit with an error about the data', async () => {
    const port = await freePort()
    const told = await Promise.all([rank(0, port), rank(1, port, { on: 'b' })])
    for (const text of told) expect(text).toMatch(/^error: the ranks disagree on the data: rank 0 has "[0-9a-f]{64}"/)
  })

  it('ranks with different versions of this package exit with both versions', async () => {
    const port = await freePort()
    const other = async () => {
      const rendezvous = await Rendezvous.join({ rank: 1, size: 2, address: '127.0.0.1', port, timeout: 60 })
      await rendezvous.agree({ 'the version of openalpaca-native': '0.0.1-other' }).finally(() => rendezvous.close())
    }
    const [told, theirs] = await Promise.allSettled([rank(0, port), other()])
    const message =
      /the ranks disagree on the version of openalpaca-native: rank 0 has ".*", and rank 1 has "0\.0\.1-other"/
    expect(told).toMatchObject({ status: 'fulfilled', value: expect.stringMatching(message) })
    expect(theirs).toMatchObject({ status: 'rejected', reason: { code: 'RANKS_DISAGREE' } })
  })

  it('a port that another program uses is named in the error', async () => {
    const server = net.createServer().listen(0)
    await once(server, 'listening')
    const { port } = server.address() as net.AddressInfo
    expect(await rank(0, port)).toMatch(new RegExp(`^error: port ${port} of this machine is in use.*Set MASTER_PORT`))
    server.close()
  })
})
