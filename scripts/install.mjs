// Runs when npm installs the published package: nothing to do where a prebuilt addon loads, else it is compiled. In a
// checkout, setup.mjs does this when it is needed. npm may be told to run no install scripts; then, where no prebuilt
// addon fits, this file can be run by hand.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { cmakeJs, howToInstall, jobs, missing, root } from './toolchain.mjs'

function prebuiltLoads() {
  try {
    createRequire(import.meta.url)('node-gyp-build')(root)
    return true
  } catch (error) {
    console.error(`openalpaca-native: no prebuilt addon for this machine (${error.message.split('\n')[0]})`)
    return false
  }
}

const isCheckout = existsSync(path.join(root, 'lib'))
if (!isCheckout && !prebuiltLoads()) {
  const lacking = missing().filter(({ elsewhere }) => elsewhere)
  if (lacking.length > 0) {
    console.error(`openalpaca-native: to compile it, ${howToInstall(lacking)}; then: npm rebuild openalpaca-native`)
    process.exit(1)
  }
  const args = [cmakeJs(), 'compile', '--directory', root, '--parallel', String(jobs)]
  process.exit(spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' }).status ?? 1)
}
