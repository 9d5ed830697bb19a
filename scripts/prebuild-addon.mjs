#!/usr/bin/env node
// What prebuildify calls in place of node-gyp: compiles the addon with cmake-js, and puts the libraries that a machine
// may lack beside it. The addon finds them by its rpath; an RPATH, unlike a RUNPATH, also serves their own needs.

import { execFileSync } from 'node:child_process'
import { copyFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { cmakeJs, jobs, root } from './toolchain.mjs'

const release = path.join(root, 'build', 'Release')
const bundled = /^\s*(lib(?:dnnl|gomp|OpenCL)\.so\.\d+) => (\S+)/gm

rmSync(path.join(root, 'build'), { recursive: true, force: true })
execFileSync(
  process.execPath,
  [
    ...[cmakeJs(), 'build', '--directory', root, '--parallel', String(jobs)],
    '--CDCMAKE_BUILD_RPATH=$ORIGIN',
    '--CDCMAKE_SHARED_LINKER_FLAGS=-Wl,--disable-new-dtags',
  ],
  { cwd: root, stdio: 'inherit' },
)
const needs = execFileSync('ldd', [path.join(release, 'openalpaca.node')], { encoding: 'utf8' })
for (const [, name, file] of needs.matchAll(bundled)) copyFileSync(file, path.join(release, name))
