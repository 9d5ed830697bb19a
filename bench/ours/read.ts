/** What reading a checkpoint costs at least: its bytes into memory, from where the system has them. */
import { open, readdir } from 'node:fs/promises'
import path from 'node:path'
import type { LoadChild } from '../configs.js'
import { childOptions, serve } from './serve.js'

const { model: directory } = childOptions<LoadChild>()

async function repetition() {
  const start = performance.now()
  let bytes = 0
  for (const name of await readdir(directory)) {
    if (!name.endsWith('.safetensors')) continue
    const file = await open(path.join(directory, name))
    const { size } = await file.stat()
    await file.read(new Uint8Array(size), 0, size, 0)
    await file.close()
    bytes += size
  }
  return { rate: (bytes * 1000) / (performance.now() - start) }
}

void repetition().then(() => serve(repetition))
