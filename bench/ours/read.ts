/**
 * The rate at which the system delivers a checkpoint's bytes, from the disk or from its cache, into freshly allocated
 * memory: a model's weights need such memory, and on a virtual machine it costs the most.
 */
import { open, readdir } from 'node:fs/promises'
import path from 'node:path'
import type { LoadChild } from '../configs.js'
import { childOptions, serve } from './serve.js'

const { model: directory } = childOptions<LoadChild>()
const piece = 2 ** 23

async function repetition() {
  const start = performance.now()
  let bytes = 0
  for (const name of await readdir(directory)) {
    if (!name.endsWith('.safetensors')) continue
    const file = await open(path.join(directory, name))
    const { size } = await file.stat()
    const memory = Buffer.allocUnsafeSlow(size)
    for (let at = 0; at < size; ) at += (await file.read(memory, at, Math.min(piece, size - at))).bytesRead
    bytes += size
    await file.close()
  }
  return { rate: (bytes * 1000) / (performance.now() - start) }
}

void repetition().then(() => serve(repetition))
