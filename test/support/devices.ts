/** The devices that the tests run on. To add a kind of device, add one entry to `devices`. */
import { backends, Device, type DeviceType, openDevice } from '../../lib/device.js'
import { native } from '../../lib/native.js'

export interface TestDevice {
  /** Used in the titles of tests. */
  name: string
  device: Device
}

/** The CPU with the kernels of one instruction set, which cpu/runtime/dispatch.cpp selects by this variable. */
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

/** A device as users open it. `emulated`, which is undocumented, is the CUDA device with its kernels on the CPU. */
const open = (type: string): TestDevice => ({ name: type, device: openDevice(type as DeviceType) })

/** Types of devices. OPENALPACA_TEST_DEVICES=cuda,cpu names the required ones, which then must exist. */
const types = process.env.OPENALPACA_TEST_DEVICES?.split(',') ?? [
  ...backends().flatMap(({ device, available }) => (available ? [device as string] : [])),
  'emulated',
]

/** One device of each type, for tests that do not depend on the kernels. */
export const deviceTypes: TestDevice[] = types.map(open)

/** Every set of kernels that this machine can run. */
export const devices: TestDevice[] = [
  ...(types.includes('cpu') ? ['baseline', 'avx2', 'avx512_bf16'].flatMap(cpuWith) : []),
  ...deviceTypes.filter(({ name }) => name !== 'cpu'),
]
