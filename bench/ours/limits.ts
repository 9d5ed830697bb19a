/** The limits of the machine: the rate of a large matrix product, and of reading or copying memory. */
import { cast, fill, globalNorm } from '#lib/ops.js'
import { measurePeakFlops } from '#lib/train/flops.js'
import { deviceName, openBenchDevice } from '../device.js'
import { serve } from './serve.js'
import { timed } from './timed.js'

/** Far more than any cache. */
const elements = deviceName === 'emulated' ? 2 ** 10 : deviceName === 'cuda' ? 2 ** 29 : 2 ** 27

async function main(): Promise<void> {
  const device = openBenchDevice()
  const { stream } = device
  using x = device.tensor('float32', [elements])
  using out = device.tensor('float32', [deviceName === 'cpu' ? 1 : elements])
  fill(stream, { x, value: 1 })

  // A CPU is fastest at reading; a GPU's memory is measured by copies, counting bytes read and written.
  const bandwidth = async () => {
    const bytes = deviceName === 'cpu' ? x.byteLength : 2 * x.byteLength
    const seconds = await timed(stream, () =>
      deviceName === 'cpu' ? globalNorm(stream, { out, x }) : cast(stream, { dst: out, src: x }),
    )
    return bytes / seconds
  }
  await bandwidth()
  const { name, isa } = device.properties
  await serve(
    async () => ({
      flops: await measurePeakFlops(device, 'bfloat16'),
      bandwidth: Math.max(await bandwidth(), await bandwidth()),
    }),
    { name, isa },
  )
}

void main()
