// Inside an installed package: checks devices, both entry points, and the libraries that the process has loaded.
const assert = require('node:assert')
const { readFileSync } = require('node:fs')
const path = require('node:path')

/** A pattern for libraries that may be the system's; and whether the addon was built with its CUDA device. */
const [basePattern, hasCuda] = [process.argv[2], process.argv[3] === 'true']

async function main() {
  const required = require('openalpaca-native')
  const imported = await import('openalpaca-native')
  assert(Object.keys(required).length > 10)
  for (const name of Object.keys(required)) assert.strictEqual(imported[name], required[name], name)

  const [cpu, cuda] = required.backends()
  assert(cpu.device === 'cpu' && cpu.available && cpu.libraries.oneDNN, JSON.stringify(cpu))
  assert(cuda.available || hasCuda === (cuda.code !== 'DEVICE_UNAVAILABLE'), JSON.stringify(cuda))
  console.log(`cpu: ${cpu.name}, ${cpu.isa}; cuda: ${cuda.available ? cuda.name : cuda.reason}`)

  // Mapped libraries are the package's own, or belong to the base of Node.js itself.
  const base = new RegExp(basePattern)
  const files = readFileSync('/proc/self/maps', 'utf8').matchAll(/ (\/\S*\.(?:so|node)[\d.]*)$/gm)
  const loaded = new Set([...files].map(([, file]) => file))
  const folder = path.join(path.dirname(require.resolve('openalpaca-native/package.json')), 'prebuilds')
  const strangers = [...loaded].filter((file) => !file.startsWith(folder) && !base.test(path.basename(file)))
  assert.deepStrictEqual(strangers, [])
  assert([...loaded].some((file) => file.endsWith('libgomp.so.1') && file.startsWith(folder)))
}

main()
