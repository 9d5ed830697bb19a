// Packs everything that the GPU tests and benchmarks need into build/gpu-bundle.tar.xz, for a machine with an NVIDIA
// GPU on which nothing can be installed: Node.js, the addon, the compiled tests and benchmarks, and their imports.
// There: tar xf gpu-bundle.tar.xz && openalpaca-gpu/run.sh test
//
// Tests without a GPU are left out, and so is oneDNN (7 MB packed): a library whose functions fail replaces it, so that
// the addon loads but the CPU device has no matrix products. With --emulated the bundle includes the emulated device,
// and OPENALPACA_TEST_DEVICES=emulated ./run.sh test tries it without a GPU.

import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { findModule, root } from './toolchain.mjs'

const limit = 40e6
const build = path.join(root, 'build')
const folder = path.join(build, 'gpu-bundle', 'openalpaca-gpu')
const addon = path.join(build, 'Release', 'openalpaca.node')
const archive = path.join(build, 'gpu-bundle.tar.xz')

const run = (command, ...args) => execFileSync(command, args, { cwd: root, encoding: 'utf8', maxBuffer: 2 ** 28 })
const at = (...parts) => path.join(folder, ...parts)
const say = (text) => console.log(`bundle: ${text}`)

// ---- contents -----------------------------------------------------------------------------------------------------

const testFolders = ['device', 'generate', 'model', 'ops', 'train', 'support']
const fixtures = /^(README|make\.py$|torch_bin|deepspeed)/ // excludes fixtures that no GPU test reads
const notAtRunTime = ['cmake-js', 'node-addon-api', 'node-api-headers']

/** Folders of packages and their dependencies. */
function closure(names) {
  const folders = new Set()
  const visit = (name, from) => {
    for (let dir = from; ; dir = path.dirname(dir)) {
      const found = path.join(dir, 'node_modules', name)
      if (fs.existsSync(path.join(found, 'package.json'))) {
        if (folders.has(found)) return
        folders.add(found)
        const { dependencies, optionalDependencies } = JSON.parse(fs.readFileSync(path.join(found, 'package.json')))
        for (const inner of Object.keys({ ...dependencies, ...optionalDependencies })) visit(inner, found)
        return
      }
      if (dir === path.dirname(dir)) return // optional, and not installed
    }
  }
  for (const name of names) visit(name, root)
  return [...folders]
}

/** Copies the files that Node.js may load. */
function copyPackage(from) {
  const wanted = (file) => /\.(c?js|mjs|json|wasm|node)$/.test(file) || /^LICEN[CS]E/i.test(path.basename(file))
  const unwanted = /[\\/](node_modules|test|tests|docs|examples|benchmarks?)$/
  fs.cpSync(from, at(path.relative(root, from)), {
    recursive: true,
    filter: (file) => {
      if (file === from) return true
      return fs.statSync(file).isDirectory() ? !unwanted.test(file) : wanted(file)
    },
  })
}

function copyNode() {
  fs.copyFileSync(process.execPath, at('node'))
  run('strip', at('node'))
}

function copyAddon() {
  if (!fs.existsSync(addon)) throw new Error('the addon is not built: npm run setup')
  if (!run('strings', '-n', '6', addon).includes('sm_90a')) {
    say('THE ADDON HAS NO GPU CODE: this bundle is good for the emulated device alone')
  }
  fs.mkdirSync(at('build', 'Release'), { recursive: true })
  fs.copyFileSync(addon, at('build', 'Release', 'openalpaca.node'))
  run('strip', at('build', 'Release', 'openalpaca.node'))
  if (process.argv.includes('--emulated')) {
    fs.copyFileSync(
      path.join(path.dirname(addon), 'libopenalpaca_emulated.so'),
      at('build', 'Release', 'libopenalpaca_emulated.so'),
    )
  }
}

function copyLibraries() {
  fs.mkdirSync(at('libraries'))
  const [, gomp] = /libgomp\.so\.1 => (\S+)/.exec(run('ldd', addon)) ?? []
  if (gomp) fs.copyFileSync(gomp, at('libraries', 'libgomp.so.1'))
  const wanted = [...run('nm', '-D', '--undefined-only', addon).matchAll(/ U (dnnl_\w+)/g)].map(([, name]) => name)
  const unimplemented = 3 // dnnl_unimplemented
  const source = wanted.map((name) => `int ${name}(void) { return ${unimplemented}; }`).join('\n')
  fs.writeFileSync(at('dnnl.c'), source)
  run('cc', '-shared', '-O1', '-fPIC', '-Wl,-soname,libdnnl.so.2', at('dnnl.c'), '-o', at('libraries', 'libdnnl.so.2'))
  fs.rmSync(at('dnnl.c'))
}

function compileTests() {
  const tsc = path.join(path.dirname(findModule('typescript')), 'bin', 'tsc')
  run(process.execPath, tsc, '-p', 'tsconfig.json', '--noEmit', 'false', '--rootDir', '.', '--outDir', at())
  for (const name of ['bench', 'examples', 'vitest.config.mjs']) fs.rmSync(at(name), { recursive: true, force: true })
  for (const name of fs.readdirSync(at('test'))) {
    if (!testFolders.includes(name)) fs.rmSync(at('test', name), { recursive: true })
  }
  for (const file of run('git', 'ls-files', ...testFolders.map((name) => `test/${name}`)).split('\n')) {
    if (/\.(mjs|cjs|json)$/.test(file)) fs.cpSync(path.join(root, file), at(file))
  }
  fs.cpSync(path.join(root, 'test', 'fixtures'), at('test', 'fixtures'), {
    recursive: true,
    filter: (file) => !fixtures.test(path.relative(path.join(root, 'test', 'fixtures'), file)),
  })
}

/** Bundles vitest's test functions and matchers into one file, which the compiled tests find as 'vitest'. */
async function bundleVitest() {
  const require = createRequire(findModule('vite')) // rolldown comes with vite
  const { rolldown } = await import(require.resolve('rolldown'))
  const bundle = await rolldown({ input: path.join(root, 'scripts', 'gpu', 'vitest.mjs'), platform: 'node' })
  await bundle.write({ file: at('node_modules', 'vitest', 'index.js'), format: 'cjs', codeSplitting: false })
  await bundle.close()
}

async function main() {
  fs.rmSync(path.dirname(folder), { recursive: true, force: true })
  fs.mkdirSync(folder, { recursive: true })
  say('copying Node, the addon and libraries')
  copyNode()
  copyAddon()
  copyLibraries()
  say('compiling the tests')
  compileTests()
  await bundleVitest()
  const { dependencies } = JSON.parse(fs.readFileSync(path.join(root, 'package.json')))
  const names = Object.keys(dependencies).filter((name) => !notAtRunTime.includes(name))
  for (const found of closure([...names, 'fast-check'])) copyPackage(found)
  for (const name of ['dist', 'recipes', 'package.json', 'LICENSE', 'bench/python']) {
    fs.cpSync(path.join(root, name), at(name), { recursive: true, filter: (file) => !/\.(d\.m?ts|map)$/.test(file) })
  }
  for (const name of ['run.sh', 'run-tests.cjs']) fs.copyFileSync(path.join(root, 'scripts', 'gpu', name), at(name))
  say('packing, which takes a minute or two')
  const tar = at('..', 'bundle.tar')
  run('tar', '--sort=name', '--owner=0', '--group=0', '-C', path.dirname(folder), '-cf', tar, path.basename(folder))
  run('xz', '--threads=1', '--x86', '--lzma2=preset=9,dict=128MiB', '--force', tar)
  fs.renameSync(`${tar}.xz`, archive)
  const { size } = fs.statSync(archive)
  say(`${path.relative(root, archive)}: ${(size / 1e6).toFixed(1)} MB`)
  if (size > limit) throw new Error(`that is more than ${limit / 1e6} MB`)
}

main().catch((error) => {
  console.error(`bundle: ${error.stderr || error.message}`)
  process.exitCode = 1
})
