// The authors and licenses of the libraries that a prebuilt addon includes. Debian keeps them with every package, so a
// prebuilt addon is made on Debian or Ubuntu.

import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import path from 'node:path'
import { findModule } from './toolchain.mjs'

const dpkg = (...args) => execFileSync('dpkg-query', args, { encoding: 'utf8' }).trim()

/** The Debian package of a library's file: { package, version, source, sourceVersion, copyright }. */
export function origin(file) {
  // Some Debian packages list their files under the old folder, /lib.
  const [name] = dpkg('--search', `*${file.replace(/^\/usr/, '')}`).split(': ')
  const format = ['Package', 'Version', 'source:Package', 'source:Version'].map((field) => `\${${field}}`).join('\n')
  const [debian, version, source, sourceVersion] = dpkg('--show', `--showformat=${format}`, name).split('\n')
  const copyright = path.join('/usr/share/doc', debian, 'copyright')
  if (!existsSync(copyright)) throw new Error(`${copyright} is missing; apt-get install --reinstall ${debian}`)
  return { package: debian, version, source, sourceVersion, copyright }
}

const rule = '='.repeat(80)
const section = (title, text) => `${rule}\n${title}\n${rule}\n\n${text.trim()}\n`

const cudaNotice = `Copyright NVIDIA Corporation. Linked into the addon, under the CUDA Toolkit End User License Agreement,
https://docs.nvidia.com/cuda/eula/, whose attachment A names it among the parts that may be distributed.`

function ofModule(name, file) {
  const folder = path.dirname(findModule(name))
  const { version } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'))
  return section(
    `${name} ${version}, whose headers the addon is compiled with`,
    readFileSync(path.join(folder, file), 'utf8'),
  )
}

/** The compiler's C++ library, which is linked into the addon. */
function cxxLibrary() {
  const file = execFileSync('g++', ['-print-file-name=libstdc++.a'], { encoding: 'utf8' }).trim()
  return { name: 'libstdc++, inside the addon', origin: origin(realpathSync(file)) }
}

/**
 * The text of the notices.
 * @param libraries next to the addon, from Debian: [{ name, origin }]
 * @param inside libraries built from source into the addon: [{ name, version, from, terms }]
 * @param cuda whether the addon has the CUDA device
 */
export function notices(libraries, inside, cuda) {
  const bySource = new Map()
  for (const library of [...libraries, cxxLibrary()]) {
    const { source } = library.origin
    bySource.set(source, [...(bySource.get(source) ?? []), library])
  }
  const parts = [
    'openalpaca-native is licensed under Apache-2.0 (LICENSE). The prebuilt addon includes the following, each under\n' +
      'its own terms. The libraries next to it are Debian’s, unchanged, and can be replaced by others of the same name.\n',
  ]
  const terms = new Set()
  for (const [source, members] of bySource) {
    const { sourceVersion, copyright } = members[0].origin
    const text = readFileSync(copyright, 'utf8')
    const from = `Source: https://snapshot.debian.org/package/${source}/${sourceVersion}/`
    const title = `${members.map(({ name }) => name).join(', ')}: ${source} ${sourceVersion}\n${from}`
    for (const [, license] of text.matchAll(/common-licenses\/(L?GPL-[\d.]*\d)/g)) terms.add(license)
    parts.push(section(title, text))
  }
  for (const { name, version, from, terms } of inside) {
    parts.push(section(`${name} ${version}, inside the addon\nSource: ${from}`, terms))
  }
  if (cuda) parts.push(section('The CUDA runtime', cudaNotice))
  parts.push(ofModule('node-addon-api', 'LICENSE.md'), ofModule('node-api-headers', 'LICENSE'))
  for (const license of [...terms].sort()) {
    const file = path.join('/usr/share/common-licenses', license)
    if (existsSync(file)) parts.push(section(license, readFileSync(file, 'utf8')))
  }
  return parts.join('\n')
}
