// Runs the package in worker threads that start and end, several at a time and one after another; and as two copies in
// one process. Memory must not grow with the number of workers.
const assert = require('node:assert')
const { isMainThread, parentPort, Worker, workerData } = require('node:worker_threads')
const { use } = require('./use.cjs')

const [first, second] = process.argv.slice(2)
/** Workers before memory begins to settle; and blocks of workers, between which it is measured. */
const [before, blocks, block] = [10, 7, 10]
/** An addon that leaks 450 KiB per worker shows as 440 KiB here, and one that leaks nothing as 10. */
const mostLost = 100 * 1024

const inWorker = (copy) =>
  new Promise((resolve, reject) => {
    let result
    const worker = new Worker(__filename, { workerData: copy })
    worker.on('message', (message) => (result = message))
    worker.on('error', reject)
    worker.on('exit', (code) => (code === 0 ? resolve(result) : reject(new Error(`a worker ended with ${code}`))))
  })

async function main() {
  const results = await Promise.all([inWorker(first), inWorker(first)]) // no main thread has it yet
  results.push(await use(first), await use(second), await inWorker(second))
  assert.strictEqual(new Set(results).size, 1, results.join('\n'))

  for (let i = 0; i < before; i++) await inWorker(first)
  // The garbage collector occasionally returns megabytes at once: the median of the blocks ignores that.
  const growth = []
  for (let i = 0; i < blocks; i++) {
    const settled = process.memoryUsage.rss()
    for (let k = 0; k < block; k++) await inWorker(first)
    growth.push((process.memoryUsage.rss() - settled) / block)
  }
  const lost = growth.sort((a, b) => a - b)[blocks >> 1]
  console.log(`workers one after the other: ${(lost / 1024).toFixed(1)} KiB more a worker`)
  assert(lost < mostLost, 'every worker leaves memory behind')
}

if (isMainThread) main()
else use(workerData).then((result) => parentPort.postMessage(result))
