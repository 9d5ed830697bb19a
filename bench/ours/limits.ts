/** What the machine can do at most: the rate of a large matrix product, and of reading memory. */
import { openDevice } from '#lib/device.js'
import { fill, globalNorm } from '#lib/ops.js'
import { measurePeakFlops } from '#lib/train/flops.js'
import { serve } from './serve.js'

/** Far more than any cache holds. */
const elements = 2 ** 27

async function main(): Promise<void> {
  const device = openDevice('cpu')
  const { stream } = device
  using x = device.tensor('float32', [elements])
  using out = device.tensor('float32', [1])
  fill(stream, { x, value: 1 })

  const readRate = async () => {
    await stream.synchronize()
    const start = performance.now()
    globalNorm(stream, { out, x })
    await stream.synchronize()
    return (x.byteLength * 1000) / (performance.now() - start)
  }
  await readRate()
  await serve(
    async () => ({
      flops: await measurePeakFlops(device, 'bfloat16'),
      bandwidth: Math.max(await readRate(), await readRate()),
    }),
    { name: device.properties.name, isa: device.properties.isa },
  )
}

void main()
