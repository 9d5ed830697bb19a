// Formats the C++ sources with .clang-format; with --check, lists unformatted ones and fails. The formatter is
// clang-format as WASM, so that its version is the same everywhere.

import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { format } from '@wasm-fmt/clang-format'

const style = readFileSync('.clang-format', 'utf8')
const listed = ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '*.cpp', '*.h', '*.cu', '*.cuh']
const files = execFileSync('git', listed, { encoding: 'utf8' }).split('\0').filter(existsSync)

const changed = files.filter((file) => {
  const text = readFileSync(file, 'utf8')
  const formatted = format(text, file, style)
  if (formatted !== text && !process.argv.includes('--check')) writeFileSync(file, formatted)
  return formatted !== text
})

if (process.argv.includes('--check')) {
  for (const file of changed) console.error(`${file} is not formatted; npm run format does it`)
  process.exitCode = changed.length > 0 ? 1 : 0
}
console.log(
  `${files.length} C++ files checked, ${changed.length} ${process.argv.includes('--check') ? 'to format' : 'formatted'}`,
)
