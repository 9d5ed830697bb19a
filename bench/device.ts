/** The device to measure. It is the same in every process of a run: the parent passes it on to its children. */
import { backends } from 'openalpaca-native'
import { type Device, type DeviceType, openDevice } from '#lib/device.js'

/**
 * `emulated` is the CUDA device on the CPU, if the build has it: for checking that the benchmarks run, not for speed.
 */
export const deviceNames = ['cpu', 'cuda', 'emulated'] as const
export type DeviceName = (typeof deviceNames)[number]

function chosen(): DeviceName {
  const flag = process.argv.indexOf('--device')
  const name = flag < 0 ? process.env.OPENALPACA_BENCH_DEVICE : process.argv[flag + 1]
  const known = deviceNames.find((device) => device === name)
  return known ?? (backends().some(({ device, available }) => device === 'cuda' && available) ? 'cuda' : 'cpu')
}

export const deviceName = chosen()
process.env.OPENALPACA_BENCH_DEVICE = deviceName

export const openBenchDevice = (): Device => openDevice(deviceName as DeviceType)
