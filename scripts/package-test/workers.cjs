// In worker threads that come and go, several at a time and one after the other; and as two copies in one process.
// Memory must not grow with the number of workers.
const assert = require('node:assert')
const { isMainThread, parentPort, Worker, workerData } = require('node:worker_threads')
const { use } = require('./use.cjs')

const [first, second] = process.argv.slice(2)
/** Workers until memory has settled, and workers that are then counted. */
const [before, counted] = [15, 30]
/** A worker that had left its addon's state behind would have left 450 KiB. */
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
  // The garbage collector may keep some for a while; what is lost is lost in every round.
  let least = Number.POSITIVE_INFINITY
  for (let round = 0; round < 3 && least >= mostLost; round++) {
    const settled = process.memoryUsage.rss()
    for (let i = 0; i < counted; i++) await inWorker(first)
    least = Math.min(least, (process.memoryUsage.rss() - settled) / counted)
  }
  console.log(`workers one after the other: ${(least / 1024).toFixed(1)} KiB more a worker`)
  assert(least < mostLost)
}

if (isMainThread) main()
else use(workerData).then((result) => parentPort.postMessage(result))
