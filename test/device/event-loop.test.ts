import { execFile } from 'node:child_process'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { deviceTypes } from '../support/devices.js'
import { slowWork } from '../support/slow-work.js'

describe.each(deviceTypes)('while $name computes', ({ device }) => {
  it('a timer of 10 ms keeps firing during computation', async () => {
    const enqueue = await slowWork(device, 400)
    let ticks = 0
    const timer = setInterval(() => ticks++, 10)
    const start = performance.now()
    enqueue(device.stream)
    await device.stream.synchronize()
    const elapsed = performance.now() - start
    clearInterval(timer)
    // Blocking waits would let the timer fire only once at the end. The machine is shared, so a quarter of the ticks
    // suffices.
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

  it('a process exits cleanly without a wait for its queued work', async () => {
    expect(await run('nobody')).toEqual({ code: 0, signal: null, stdout: '', stderr: '' })
  })

  it('a process stays alive until a wait is settled', async () => {
    expect(await run('waiting')).toEqual({ code: 0, signal: null, stdout: 'done\n', stderr: '' })
  })

  it('a process exits at process.exit with a pending wait', async () => {
    // Several at once: the state of a stream's thread while the libraries are unloaded is random.
    const ends = await Promise.all([1, 2, 3, 4].map(() => run('exit')))
    for (const end of ends) expect(end).toEqual({ code: 0, signal: null, stdout: '', stderr: '' })
  })

  it('a process with queued work exits on an uncaught error', async () => {
    expect(await run('throw')).toMatchObject({ code: 1, signal: null, stderr: expect.stringContaining('on purpose') })
  })
})
