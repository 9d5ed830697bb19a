import { afterEach, describe, expect, it } from 'vitest'
import { backends, openDevice } from '../../lib/device.js'
import { NonFiniteError, OpenAlpacaError, ParallelError } from '../../lib/errors.js'
import { errorOf, native } from '../../lib/native.js'

describe('backends', () => {
  it('backends lists the CPU with its properties, and the reason why a device is missing', () => {
    const [cpu, ...others] = backends()
    expect(cpu).toMatchObject({
      device: 'cpu',
      available: true,
      units: expect.any(Number),
      name: expect.stringMatching(/./),
    })
    expect(cpu.units).toBeGreaterThanOrEqual(1)
    expect(cpu.totalMemory).toBeGreaterThan(cpu.freeMemory!)
    expect(cpu.freeMemory).toBeGreaterThan(0)
    for (const { available, reason } of others) expect(available || reason).toBeTruthy()
  })

  it('each backend is opened once per process, and the best one is the default', () => {
    expect(openDevice('cpu')).toBe(openDevice('cpu'))
    const available = backends().filter((backend) => backend.available)
    expect(openDevice()).toBe(openDevice(available[available.length - 1].device))
  })

  it('missing backends are rejected with a code', () => {
    expect(() => native.deviceOpen('abacus')).toThrow(OpenAlpacaError)
    expect(errorOf('NON_FINITE', '')).toBeInstanceOf(NonFiniteError)
    expect(errorOf('RANK_LOST', '')).toBeInstanceOf(ParallelError)
    expect(() => native.deviceOpen('abacus')).toThrow(
      expect.objectContaining({ code: 'DEVICE_UNAVAILABLE', message: expect.stringContaining("'abacus'") }),
    )
  })
})

describe('the CPU', () => {
  const before = process.env.OPENALPACA_CPU_ISA
  afterEach(() => {
    if (before === undefined) delete process.env.OPENALPACA_CPU_ISA
    else process.env.OPENALPACA_CPU_ISA = before
  })

  it('the CPU uses the instruction set that OPENALPACA_CPU_ISA selects', () => {
    process.env.OPENALPACA_CPU_ISA = 'baseline'
    expect(native.deviceProperties(native.deviceOpen('cpu')).isa).toBe('baseline')
  })

  it('an unsupported OPENALPACA_CPU_ISA gives an error with the supported instruction sets', () => {
    process.env.OPENALPACA_CPU_ISA = 'avx1024'
    expect(() => native.deviceOpen('cpu')).toThrow(
      expect.objectContaining({
        code: 'UNSUPPORTED_ISA',
        message: expect.stringMatching(/^OPENALPACA_CPU_ISA=avx1024: this processor can run .*baseline$/),
      }),
    )
  })

  it('the CPU uses the requested number of threads', () => {
    const device = openDevice('cpu')
    const threads = device.properties.units
    device.setThreads(3)
    expect(device.properties.units).toBe(3)
    device.setThreads(threads)
    for (const wrong of [0, -1, 1.5, Number.NaN]) expect(() => device.setThreads(wrong)).toThrow(RangeError)
    expect(device.properties.units).toBe(threads)
  })
})
