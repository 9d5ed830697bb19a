/** The devices that the tests run on. A new kind of device is one more entry of `devices`. */
import { backends, Device, type DeviceType, openDevice } from '../../lib/device.js'
import { native } from '../../lib/native.js'

export interface TestDevice {
  /** For the tests' titles. */
  name: string
  device: Device
}

/** The CPU with the kernels of one instruction set, which cpu/dispatch.cpp chooses by this variable. */
function cpuWith(isa: string): TestDevice[] {
  const before = process.env.OPENALPACA_CPU_ISA
  process.env.OPENALPACA_CPU_ISA = isa
  try {
    return [{ name: `cpu ${isa}`, device: new Device('cpu', native.deviceOpen('cpu')) }]
  } catch (error) {
    if ((error as { code?: string }).code === 'UNSUPPORTED_ISA') return []
    throw error
  } finally {
    if (before === undefined) delete process.env.OPENALPACA_CPU_ISA
    else process.env.OPENALPACA_CPU_ISA = before
  }
}

/** The CUDA device and its kernels on the CPU: test/emulator. Users are not told of it. */
const emulated: TestDevice = {
  name: 'emulated',
  device: new Device('emulated' as DeviceType, native.deviceOpen('emulated')),
}

/** One device of each type that is available. For what does not depend on the kernels. */
export const deviceTypes: TestDevice[] = [
  ...backends()
    .filter((backend) => backend.available)
    .map((backend) => ({ name: backend.device as string, device: openDevice(backend.device) })),
  emulated,
]

/** Every set of kernels that this machine can run. */
export const devices: TestDevice[] = [
  ...['baseline', 'avx2', 'avx512_bf16'].flatMap(cpuWith),
  ...deviceTypes.filter(({ name }) => name !== 'cpu'),
]
