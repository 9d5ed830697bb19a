import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { StopRequest, stoppable } from '../../lib/cli/signals.js'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] })
})
afterEach(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

describe('a signal', () => {
  test('asks to stop the first time and ends the process the second time', () => {
    const kill = vi.spyOn(process, 'kill').mockReturnValue(true)
    const before = process.listenerCount('SIGINT')
    using request = new StopRequest()
    request.onQuit = vi.fn()
    expect(request.signal.aborted).toBe(false)

    process.emit('SIGINT', 'SIGINT')
    expect(request.signal.reason).toMatchObject({ name: 'AbortError', message: 'stopped by SIGINT' })
    expect(request.exitCode).toBe(130)

    vi.advanceTimersByTime(100) // the same press once more, forwarded by npm
    process.emit('SIGINT', 'SIGINT')
    expect(request.onQuit).not.toHaveBeenCalled()
    expect(kill).not.toHaveBeenCalled()

    vi.advanceTimersByTime(1000)
    process.emit('SIGINT', 'SIGINT')
    expect(request.onQuit).toHaveBeenCalledOnce()
    expect(kill).toHaveBeenCalledExactlyOnceWith(process.pid, 'SIGINT')
    expect(process.listenerCount('SIGINT')).toBe(before) // so that it ends the process
  })

  test('to terminate is told apart by its exit code', () => {
    using request = new StopRequest()
    process.emit('SIGTERM', 'SIGTERM')
    expect(request.exitCode).toBe(143)
  })

  test('that the terminal has gone asks to stop, and never ends the process at once', () => {
    const kill = vi.spyOn(process, 'kill').mockReturnValue(true)
    using request = new StopRequest()
    process.emit('SIGHUP', 'SIGHUP')
    vi.advanceTimersByTime(10_000)
    process.emit('SIGHUP', 'SIGHUP')
    expect(request.exitCode).toBe(129)
    expect(kill).not.toHaveBeenCalled()
  })

  test('ends work that can be stopped with its exit code and no error, and errors of its own stay errors', async () => {
    const said = vi.spyOn(console, 'error').mockImplementation(() => {})
    const work = (signal: AbortSignal) => {
      process.emit('SIGINT', 'SIGINT')
      return Promise.reject(signal.reason)
    }
    expect(await stoppable(work, 'stopped')).toBe(130)
    expect(said).toHaveBeenCalledExactlyOnceWith('stopped')
    expect(await stoppable(async () => {})).toBe(0)
    await expect(stoppable(() => Promise.reject(new Error('full')))).rejects.toThrow('full')
  })

  test('that is on its way is not lost when listening is asked for once more', async () => {
    using request = new StopRequest()
    process.kill(process.pid, 'SIGINT') // is heard in the next turn of the event loop
    request.listen()
    await new Promise(setImmediate)
    await new Promise(setImmediate)
    expect(request.exitCode).toBe(130)
  })

  test('is left to Node.js where it is released, and afterwards', () => {
    const before = process.listenerCount('SIGINT')
    const request = new StopRequest()
    expect(process.listenerCount('SIGINT')).toBe(before + 1)
    request.release()
    expect(process.listenerCount('SIGINT')).toBe(before)
    request.listen()
    request.listen()
    expect(process.listenerCount('SIGINT')).toBe(before + 1)
    request[Symbol.dispose]()
    expect(process.listenerCount('SIGINT')).toBe(before)
  })
})
