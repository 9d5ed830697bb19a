import { uploadModel } from '../../hub/upload.js'
import { ByteProgress } from '../byte-progress.js'

/** The flags of `push`, spelled as on the command line. */
export interface PushFlags {
  model_path: string
  repo: string
  private?: boolean
  revision: string
  message?: string
}

/** Uploads a model to the Hub. Returns the exit code. */
export async function push({ model_path: directory, repo, message, ...flags }: PushFlags): Promise<number> {
  const progress = new ByteProgress('uploading')
  try {
    const { url, files } = await uploadModel(directory, repo, { ...flags, message, onProgress: progress.update })
    progress.close()
    console.log(`${files.length} files uploaded: ${url}`)
  } finally {
    progress.close()
  }
  return 0
}
