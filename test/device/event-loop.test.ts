import { execFile } from 'node:child_process'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { deviceTypes } from '../support/devices.js'
import { slowWork } from '../support/slow-work.js'

describe.each(deviceTypes)('while $name computes', ({ device }) => {
  it('a timer of 10 ms keeps firing', async () => {
    const enqueue = await slowWork(device, 400)
    let ticks = 0
    const timer = setInterval(() => ticks++, 10)
    const start = performance.now()
    enqueue(device.stream)
    await device.stream.synchronize()
    const elapsed = performance.now() - start
    clearInterval(timer)
    // A loop that waits for the work fires once at its end. The machine is shared, so a quarter of the ticks will do.
    expect(ticks).toBeGreaterThan(elapsed / 40)
  })

  it('enqueueing returns long before the work is done', async () => {
    const enqueue = await slowWork(device, 300)
    let done = false
    enqueue(device.stream)
    const finished = device.stream.synchronize().then(() => {
      done = true
    })
    await new Promise((resolve) => setImmediate(resolve))
    expect(done).toBe(false)
    await finished
  })
})

describe.each(deviceTypes)('a process with work queued on $name', ({ name }) => {
  const script = path.join(__dirname, '../support/leave-work-queued.mjs')
  const run = (way: string) =>
    new Promise<{ code: unknown; signal: unknown; stdout: string; stderr: string }>((resolve) => {
      const child = execFile(process.execPath, [script, way, name], (_, stdout, stderr) => {
        resolve({ code: child.exitCode, signal: child.signalCode, stdout, stderr })
      })
    })

  it('ends cleanly when nobody waits for it', async () => {
    expect(await run('nobody')).toEqual({ code: 0, signal: null, stdout: '', stderr: '' })
  })

  it('stays until a wait is settled', async () => {
    expect(await run('waiting')).toEqual({ code: 0, signal: null, stdout: 'done\n', stderr: '' })
  })

  it('ends at process.exit with a wait outstanding', async () => {
    // Several at once: what a stream's thread is doing when the libraries are taken down is a matter of chance.
    const ends = await Promise.all([1, 2, 3, 4].map(() => run('exit')))
    for (const end of ends) expect(end).toEqual({ code: 0, signal: null, stdout: '', stderr: '' })
  })

  it('ends with an uncaught error as any program does', async () => {
    expect(await run('throw')).toMatchObject({ code: 1, signal: null, stderr: expect.stringContaining('on purpose') })
  })
})
