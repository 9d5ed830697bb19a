// The toolchain of a published addon, which loads wherever Node.js itself does: this machine's compiler with the C
// library of an old Debian, unpacked into a folder, and oneDNN and Gloo from source, as static libraries. The machine is
// not changed, and root is not needed. scripts/portable/old_glibc.cpp replaces functions of that C library that are
// newer than the oldest supported one.

import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { StepError, steps } from './steps.mjs'
import { jobs, root } from './toolchain.mjs'

const { say, run } = steps('prebuild')
export const folder = path.join(root, 'build', 'portable')
const at = (...names) => path.join(folder, ...names)
const stamp = at('.stamp')

/** The addon, where cmake-js puts it. */
export const builtAddon = at('addon', 'Release', 'openalpaca.node')

/** The old system: the addon is linked against it, and the test of the package runs on it. */
export const oldSystem = at('root')

// Old releases move to the second mirror. The third keeps every version of every package, by day.
const mirrors = [
  'http://deb.debian.org/debian',
  'http://archive.debian.org/debian',
  'http://snapshot.debian.org/archive/debian/20250901T000000Z',
]
/** Debian 11, of 2021. Its last point release was 11.11, so the contents of these packages no longer change. */
const release = {
  name: 'bullseye',
  packages: {
    'libc6-dev': '2.31-13+deb11u11',
    'linux-libc-dev': '5.10.223-1',
    libgomp1: '10.2.1-6',
    'libstdc++6': '10.2.1-6',
    dash: '0.5.11+git20200708+dd9ef66-5',
    coreutils: '8.32-4+b1',
  },
}
const sources = {
  oneDNN: {
    version: '3.7.2',
    file: 'pool/main/o/onednn/onednn_3.7.2+ds.orig.tar.xz',
    sha256: '0cc51ca26c1af6a2bb1e71e378e7046f3ceb3e71791ee9d4e246d50f904a6ea6',
    from: 'https://github.com/uxlfoundation/oneDNN/tree/v3.7.2',
    terms: ['LICENSE', 'THIRD-PARTY-PROGRAMS'],
    options: {
      ONEDNN_LIBRARY_TYPE: 'STATIC',
      ONEDNN_BUILD_GRAPH: 'OFF',
      ONEDNN_BUILD_TESTS: 'OFF',
      ONEDNN_BUILD_EXAMPLES: 'OFF',
      ONEDNN_BUILD_DOC: 'OFF',
      ONEDNN_ENABLE_PRIMITIVE: 'MATMUL;REORDER',
      ONEDNN_ENABLE_WORKLOAD: 'INFERENCE',
      ONEDNN_ENABLE_JIT_PROFILING: 'OFF',
      ONEDNN_ENABLE_ITT_TASKS: 'OFF',
      ONEDNN_CPU_RUNTIME: 'OMP',
      CMAKE_CXX_FLAGS_RELEASE: '-O1 -DNDEBUG', // its speed is in the code that it generates at run time
    },
    strip: 1, // folders above the source
    target: 'dnnl',
  },
  Gloo: {
    version: '0.5.0, of 2 December 2023',
    file: 'pool/main/g/gloo/gloo_0.0~git20231202.5354032.orig.tar.xz',
    sha256: '66d6fadb7b07cfcff08f74ae2acfab504e780d6b7536ee74d2011718cda25030',
    from: 'https://github.com/facebookincubator/gloo/tree/5354032',
    terms: ['LICENSE'],
    options: { BUILD_SHARED_LIBS: 'OFF', USE_REDIS: 'OFF', USE_IBVERBS: 'OFF', USE_LIBUV: 'OFF' },
    strip: 0,
    target: 'gloo',
  },
}

/** oneDNN compiles everything; these files, most of its compile time, serve primitives other than products. */
const isOtherPrimitive = (file) =>
  !/x64\/gemm\/|injectors|_list\.cpp$/.test(file) &&
  /(conv(?!ert)|rnn|lstm|gru|lrn|lbr|pool|norm|resampling|prelu|shuffle|softmax|inner_product(?!_utils)|reduction|binary(?!_injector)|eltwise|winograd)[^/]*\.cpp$/.test(
    file,
  )

// ---- the old system -----------------------------------------------------------------------------------------------

/** Lists of the old release's packages, separate from those of this machine. */
async function aptOf(mirror) {
  const state = at('apt')
  for (const name of ['state/lists/partial', 'cache/archives/partial']) {
    fs.mkdirSync(path.join(state, name), { recursive: true })
  }
  const keys = '/usr/share/keyrings/debian-archive-keyring.gpg'
  if (!fs.existsSync(keys))
    throw new StepError('Debian’s keys are missing; type: sudo apt-get install debian-archive-keyring')
  fs.writeFileSync(path.join(state, 'status'), '') // empty, so that all dependencies are fetched
  fs.writeFileSync(path.join(state, 'sources.list'), `deb [signed-by=${keys}] ${mirror} ${release.name} main\n`)
  const settings = {
    'Dir::Etc::sourcelist': path.join(state, 'sources.list'),
    'Dir::Etc::sourceparts': '-',
    'Dir::Etc::preferencesparts': '-',
    'Dir::State': path.join(state, 'state'),
    'Dir::State::status': path.join(state, 'status'),
    'Dir::Cache': path.join(state, 'cache'),
    'Acquire::Check-Valid-Until': 'false', // archived lists are not signed again
    'Debug::NoLocking': 'true', // root is not needed
    'APT::Sandbox::User': '',
    'APT::Architecture': 'amd64',
    'APT::Install-Recommends': 'false',
  }
  const config = path.join(state, 'apt.conf')
  fs.writeFileSync(
    config,
    Object.entries(settings)
      .map(([key, value]) => `${key} "${value}";\n`)
      .join(''),
  )
  const apt = (what, ...args) => run(what, 'apt-get', args, at('apt.log'), { APT_CONFIG: config })
  await apt(`listing Debian ${release.name}'s packages`, 'update', '--error-on=any')
  return apt
}

/** Tries one mirror after another. */
async function fromAMirror(get) {
  let failure
  for (const mirror of mirrors) {
    try {
      return await get(mirror)
    } catch (error) {
      if (!(error instanceof StepError)) throw error
      failure ??= error
    }
  }
  throw failure
}

async function layOutOldSystem() {
  const apt = await fromAMirror(aptOf)
  const packages = Object.entries(release.packages).map(([name, version]) => `${name}=${version}`)
  await apt(`fetching its C library`, 'install', '-y', '--download-only', ...packages)
  const archives = at('apt', 'cache', 'archives')
  for (const name of fs.readdirSync(archives).filter((name) => name.endsWith('.deb'))) {
    execFileSync('dpkg-deb', ['--extract', path.join(archives, name), oldSystem])
    if (name.startsWith('libgomp1_')) fs.copyFileSync(path.join(archives, name), at('libgomp1.deb'))
  }
  fs.rmSync(at('apt', 'cache'), { recursive: true })
  for (const entry of fs.readdirSync(at('root'), { recursive: true, withFileTypes: true })) {
    const file = path.join(entry.parentPath ?? entry.path, entry.name)
    const target = entry.isSymbolicLink() ? fs.readlinkSync(file) : ''
    if (!path.isAbsolute(target)) continue // an absolute link points outside the root
    fs.unlinkSync(file)
    fs.symlinkSync(path.relative(path.dirname(file), at('root', target)), file)
  }
  // The compiler is installed in /usr and would search there for libraries first.
  const libraries = ['usr/lib', 'lib'].map((name) => at('root', name, 'x86_64-linux-gnu'))
  // As in the compiler's development packages, which normally provide these links.
  fs.symlinkSync('libgomp.so.1', path.join(libraries[0], 'libgomp.so'))
  fs.writeFileSync(path.join(libraries[0], 'libgcc_s.so'), 'GROUP ( libgcc_s.so.1 -lgcc )\n')
  for (const [language, name] of Object.entries({ CXX: 'g++', C: 'gcc' })) {
    const flags = [`--sysroot="${at('root')}"`, `-B"${libraries[0]}/"`, ...libraries.map((dir) => `-L"${dir}"`)]
    if (language === 'CXX') flags.push('-nostdinc++', ...cxxHeaders().map((dir) => `-isystem "${dir}"`))
    fs.writeFileSync(at(name), `#!/bin/sh\nexec ${name} ${flags.join(' ')} "$@"\n`, { mode: 0o755 })
    fs.appendFileSync(at('toolchain.cmake'), `set(CMAKE_${language}_COMPILER "${at(name)}")\n`)
  }
}

/** This machine's C++ library headers, which belong to the compiler and not to the C library. */
function cxxHeaders() {
  const { stderr } = spawnSync('g++', ['-E', '-x', 'c++', '-v', '/dev/null'], {
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C' },
  })
  return stderr.match(/^ \/\S*\/c\+\+\/\S*$/gm).map((line) => line.trim())
}

// ---- libraries ----------------------------------------------------------------------------------------------------

const options = (values) => Object.entries(values).map(([name, value]) => `-D${name}=${value}`)

async function buildLibrary(name, { version, file, sha256, options: own, strip, target }) {
  const archive = at(path.basename(file))
  const helper = '/usr/lib/apt/apt-helper' // with the proxies of apt
  await fromAMirror((mirror) => {
    const args = ['download-file', `${mirror}/${file}`, archive, `SHA256:${sha256}`]
    return run(`fetching ${name} ${version}`, helper, args, at(`fetch-${name}.log`))
  })
  const [source, build] = [at(name, 'source'), at(name, 'build')]
  fs.mkdirSync(source, { recursive: true })
  execFileSync('tar', ['--extract', `--strip-components=${strip}`, `--directory=${source}`, `--file=${archive}`])
  fs.rmSync(archive)
  if (name === 'oneDNN') {
    const cpu = path.join(source, 'src', 'cpu')
    for (const file of fs.readdirSync(cpu, { recursive: true })) {
      if (isOtherPrimitive(file)) fs.rmSync(path.join(cpu, file))
    }
  }
  const common = {
    CMAKE_TOOLCHAIN_FILE: at('toolchain.cmake'),
    CMAKE_BUILD_TYPE: 'Release',
    CMAKE_POSITION_INDEPENDENT_CODE: 'ON',
    CMAKE_CXX_VISIBILITY_PRESET: 'hidden',
  }
  const arguments_ = ['-S', source, '-B', build, ...options({ ...common, ...own })]
  await run(`configuring ${name}`, 'cmake', arguments_, at(`configure-${name}.log`))
  const building = ['--build', build, '--target', target, '--parallel', String(jobs)]
  await run(`building ${name} (${jobs} at a time)`, 'cmake', building, at(`build-${name}.log`))
}

/** Runs a step unless it was already completed; a failed step runs again next time. */
async function once(name, step) {
  const done = at(`.${name}-done`)
  if (fs.existsSync(done)) return
  await step()
  fs.writeFileSync(done, '')
}

/**
 * Builds the missing parts, which takes some minutes the first time.
 * @returns the CMake options for building the addon
 */
export async function portableToolchain() {
  const compiler = execFileSync('g++', ['-dumpfullversion'], { encoding: 'utf8' }).trim()
  const state = JSON.stringify({ folder, compiler, release, sources })
  if (!fs.existsSync(stamp) || fs.readFileSync(stamp, 'utf8') !== state) {
    say(`a published addon is built with the C library of Debian ${release.name}, which goes to ${folder}`)
    fs.rmSync(folder, { recursive: true, force: true })
    fs.mkdirSync(folder, { recursive: true })
    fs.writeFileSync(stamp, state)
  }
  await once('system', layOutOldSystem)
  for (const [name, library] of Object.entries(sources)) await once(name, () => buildLibrary(name, library))
  return {
    CMAKE_TOOLCHAIN_FILE: at('toolchain.cmake'),
    OPENALPACA_PORTABLE: 'ON',
    DNNL_INCLUDE_DIR: `${at('oneDNN', 'source', 'include')};${at('oneDNN', 'build', 'include')}`,
    DNNL_LIBRARY: at('oneDNN', 'build', 'src', 'libdnnl.a'),
    GLOO_INCLUDE_DIR: `${at('Gloo', 'source')};${at('Gloo', 'build')}`,
    GLOO_LIBRARY: at('Gloo', 'build', 'gloo', 'libgloo.a'),
  }
}

/** The libraries built from source into the addon: [{ name, version, from, terms: text }]. */
export const staticLibraries = () =>
  Object.entries(sources).map(([name, { version, from, terms }]) => {
    const texts = terms.map((file) => fs.readFileSync(at(name, 'source', file), 'utf8').trim())
    return { name, version, from, terms: texts.join('\n\n') }
  })

/** The old system's OpenMP, which is placed next to the addon: { name, file, origin }, with origin() of notices.mjs. */
export function openmp() {
  const format = ['Package', 'Version', 'Source'].map((field) => `\${${field}}`).join('\n')
  const show = ['--show', `--showformat=${format}`, at('libgomp1.deb')]
  const [name, version, source] = execFileSync('dpkg-deb', show, { encoding: 'utf8' }).split('\n')
  const copyright = path.join(oldSystem, 'usr', 'share', 'doc', name, 'copyright')
  const file = fs.realpathSync(path.join(oldSystem, 'usr', 'lib', 'x86_64-linux-gnu', 'libgomp.so.1'))
  return { name: 'libgomp.so.1', file, origin: { package: name, version, source, sourceVersion: version, copyright } }
}
