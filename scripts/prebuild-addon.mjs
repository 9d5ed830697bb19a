#!/usr/bin/env node
// What prebuildify calls in place of node-gyp: has cmake-js build the addon, or leaves it as it is when it is current,
// and puts it where prebuildify looks, which is the only .node there.

import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import { root } from './toolchain.mjs'

const destination = path.resolve('build', 'Release') // in the folder that prebuildify runs in

execFileSync(process.execPath, [path.join(root, 'scripts', 'setup.mjs')], { stdio: 'inherit' })
mkdirSync(destination, { recursive: true })
copyFileSync(path.join(root, 'build', 'Release', 'openalpaca.node'), path.join(destination, 'openalpaca.node'))
