/** The manifest of a training checkpoint: the run that its files belong to, and checksums that prove them complete. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { CheckpointError } from '../../errors.js'

export const manifestName = 'manifest.json'
export const manifestFormat = 'openalpaca-checkpoint'
export const manifestVersion = 1

/** Names of files in the manifest's directory, and no others. */
const fileName = z.string().regex(/^(?!\.)[\w.-]{1,100}$/)
const count = z.int().nonnegative()

const manifestSchema = z.object({
  format: z.literal(manifestFormat),
  version: z.literal(manifestVersion),
  package_version: z.string(),
  world_size: z.int().positive(),
  dtype: z.string(),
  /** Optimizer steps done. */
  step: count,
  data: z.object({ fingerprint: z.string(), instances_seen: count }),
  units: z.array(
    z.object({
      name: z.string(),
      length: count,
      parameters: z.array(z.object({ name: z.string(), shape: z.array(count), offset: count })),
    }),
  ),
  recipe: z.record(z.string(), z.unknown()),
  files: z.record(fileName, z.object({ bytes: count, sha256: z.string() })),
})

export type Manifest = z.infer<typeof manifestSchema>

/**
 * Whether a directory is a training checkpoint of this package, complete or not: other programs have a manifest.json
 * too.
 */
export async function isTrainingCheckpoint(directory: string): Promise<boolean> {
  const text = await readFile(path.join(directory, manifestName), 'utf8').catch(() => '')
  return text.slice(0, 1000).includes(`"${manifestFormat}"`)
}

/** @throws {CheckpointError} for a directory that is not a checkpoint, or a damaged manifest */
export async function parseManifest(directory: string): Promise<Manifest> {
  const file = path.join(directory, manifestName)
  const text = await readFile(file, 'utf8').catch((cause) => {
    throw new CheckpointError(`${file} cannot be read: ${directory} is not a training checkpoint`, { cause })
  })
  try {
    return manifestSchema.parse(JSON.parse(text))
  } catch (cause) {
    throw new CheckpointError(`${file} is damaged, or of another version of this package; use another checkpoint`, {
      cause,
    })
  }
}

/**
 * `parseManifest`, with a check of the file sizes.
 * @throws {CheckpointError} also for a file that is missing or cut short
 */
export async function readManifest(directory: string): Promise<Manifest> {
  const manifest = await parseManifest(directory)
  for (const [name, { bytes }] of Object.entries(manifest.files)) {
    const size = (await stat(path.join(directory, name)).catch(() => undefined))?.size
    if (size !== bytes) {
      throw new CheckpointError(
        `${path.join(directory, name)} ${size === undefined ? 'is missing' : `has ${size} bytes instead of ${bytes}`}; ` +
          'use the checkpoint before',
      )
    }
  }
  return manifest
}

/** The SHA-256 of a file, in hexadecimal. */
export async function hashFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file, { highWaterMark: 4 << 20 })) hash.update(chunk)
  return hash.digest('hex')
}
