import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'
import { afterAll, describe, expect, it } from 'vitest'
import { fixtures } from '../support/fixtures.js'
import { compile, root } from '../support/typescript.js'

const model = path.join(fixtures, 'd100')
const env = { ...process.env, OMP_NUM_THREADS: '1' }
const run = promisify(execFile)
const example = (name: string) => path.join(root, 'examples', name)
const directory = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-examples-'))
afterAll(() => rmSync(directory, { recursive: true }))

describe.concurrent('the example', () => {
  it('the fine-tune example trains a model and saves it', async () => {
    const output = path.join(directory, 'tuned')
    const args = [example('fine-tune.mjs'), model, path.join(fixtures, 'instructions.json'), output]
    const { stdout } = await run(process.execPath, args, { env })
    expect(stdout).toMatch(/^1\/\d+ {2}loss \d+\.\d{4}$/m)
    expect(stdout).toMatch(/^completed after \d+ steps, loss \d/m)
    expect(readdirSync(output)).toEqual(expect.arrayContaining(['config.json', 'model.safetensors', 'tokenizer.model']))
  })

  it('the generate example prints an answer', async () => {
    const { stdout } = await run(process.execPath, [example('generate.mjs'), model, 'Name three colours.'], { env })
    expect(stdout.length).toBeGreaterThan(1)
  })

  it('the gradients example prints the loss, and a norm for each parameter', async () => {
    const { stdout } = await run(process.execPath, [example('gradients.cjs'), model], { env })
    expect(stdout).toMatch(/^loss \d/)
    expect(stdout).toMatch(/^model\.layers\.0\.self_attn\.q_proj\.weight \d/m)
  })

  it('the own-model example learns to repeat letters', async () => {
    const { stdout } = await run(process.execPath, [example('own-model.mjs'), '100'], { env })
    expect(stdout).toMatch(/^step 1 {2}loss 3\.\d+ {2}right \d\.\d %$/m)
    expect(stdout).toMatch(/^step 100 {2}loss 0\.0\d+ {2}right (100\.0|99\.\d) %$/m)
  })

  it('the server example streams answers to several clients, each as if it were the only one', async () => {
    const { server, address } = await serve()
    try {
      const ask = async (request: object) => {
        const body = JSON.stringify({ maxNewTokens: 12, ...request })
        return await fetch(`${address}/answer`, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body,
        })
      }
      const answers = async (...instructions: string[]) => {
        return await Promise.all(instructions.map(async (instruction) => (await ask({ instruction })).text()))
      }
      const [alone] = await answers('Name three colours.')
      expect(alone).not.toBe('')
      const [first, , third] = await answers('Name three colours.', 'Say hello.', 'Name three colours.')
      expect([first, third]).toEqual([alone, alone])

      const refused = await ask({ instruction: '' })
      expect([refused.status, await refused.text()]).toEqual([400, expect.stringContaining('instruction')])
      const tooLong = await ask({ instruction: 'long '.repeat(1000) })
      expect([tooLong.status, await tooLong.text()]).toEqual([400, expect.stringMatching(/tokens|long/)])
    } finally {
      server.kill('SIGTERM')
      if (server.exitCode === null) await once(server, 'exit')
    }
    expect(server.exitCode).toBe(0)
  })

  it('the examples pass the type checker', async () => {
    // Against the declarations in dist/, like a JavaScript project with checkJs.
    const names = readdirSync(path.join(root, 'examples')).filter((name) => /\.[cm]js$/.test(name))
    const options = { allowJs: true, checkJs: true, module: 'node16', moduleResolution: 'node16', skipLibCheck: true }
    const lenient = {
      strict: false,
      exactOptionalPropertyTypes: false,
      noUncheckedIndexedAccess: false,
      typeRoots: [path.join(root, 'node_modules/@types')],
    }
    expect(await compile(directory, names.map(example), { ...options, ...lenient })).toBe('')
  })
})

async function serve(): Promise<{ server: ChildProcess; address: string }> {
  const args = [example('server.mjs'), model, '0']
  const server = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(server, 'exit').then(([code]) => Promise.reject(new Error(`the server ended with ${code}`)))
  ended.catch(() => {}) // its end is expected later
  const [line] = (await Promise.race([once(createInterface({ input: server.stdout }), 'line'), ended])) as [string]
  return { server, address: line.replace('listening on ', '') }
}
