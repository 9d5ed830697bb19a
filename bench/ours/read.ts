/** How fast the system hands over a checkpoint's bytes, from the disk or from its cache. */
import { open, readdir } from 'node:fs/promises'
import path from 'node:path'
import type { LoadChild } from '../configs.js'
import { childOptions, serve } from './serve.js'

const { model: directory } = childOptions<LoadChild>()
const buffer = new Uint8Array(2 ** 23)

async function repetition() {
  const start = performance.now()
  let bytes = 0
  for (const name of await readdir(directory)) {
    if (!name.endsWith('.safetensors')) continue
    const file = await open(path.join(directory, name))
    for (let read = 1; read > 0; bytes += read) read = (await file.read(buffer)).bytesRead
    await file.close()
  }
  return { rate: (bytes * 1000) / (performance.now() - start) }
}

void repetition().then(() => serve(repetition))
