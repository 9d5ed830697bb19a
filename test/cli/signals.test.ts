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
  test('the first signal requests a stop and the second one exits the process', () => {
    const kill = vi.spyOn(process, 'kill').mockReturnValue(true)
    const before = process.listenerCount('SIGINT')
    using request = new StopRequest()
    request.onQuit = vi.fn()
    expect(request.signal.aborted).toBe(false)

    process.emit('SIGINT', 'SIGINT')
    expect(request.signal.reason).toMatchObject({ name: 'AbortError', message: 'stopped by SIGINT' })
    expect(request.exitCode).toBe(130)

    vi.advanceTimersByTime(100) // the same key press again, forwarded by npm
    process.emit('SIGINT', 'SIGINT')
    expect(request.onQuit).not.toHaveBeenCalled()
    expect(kill).not.toHaveBeenCalled()

    vi.advanceTimersByTime(1000)
    process.emit('SIGINT', 'SIGINT')
    expect(request.onQuit).toHaveBeenCalledOnce()
    expect(kill).toHaveBeenCalledExactlyOnceWith(process.pid, 'SIGINT')
    expect(process.listenerCount('SIGINT')).toBe(before) // so that it exits the process
  })

  test('SIGTERM has its own exit code', () => {
    using request = new StopRequest()
    process.emit('SIGTERM', 'SIGTERM')
    expect(request.exitCode).toBe(143)
  })

  test('SIGHUP requests a stop, and never exits the process at once', () => {
    const kill = vi.spyOn(process, 'kill').mockReturnValue(true)
    using request = new StopRequest()
    process.emit('SIGHUP', 'SIGHUP')
    vi.advanceTimersByTime(10_000)
    process.emit('SIGHUP', 'SIGHUP')
    expect(request.exitCode).toBe(129)
    expect(kill).not.toHaveBeenCalled()
  })

  test('interrupted work ends with the exit code of the signal, and other errors stay errors', async () => {
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

  test('a pending signal is not lost when listening starts again', async () => {
    using request = new StopRequest()
    process.kill(process.pid, 'SIGINT') // arrives in the next tick of the event loop
    request.listen()
    await new Promise(setImmediate)
    await new Promise(setImmediate)
    expect(request.exitCode).toBe(130)
  })

  test('a released signal is left to Node.js', () => {
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
