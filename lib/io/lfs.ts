import path from 'node:path'

const POINTER = /^version https:\/\/(git-lfs|hawser)\.github\.com\/spec\//
/** Far more than a pointer has. */
const MAX_BYTES = 1024

/** Whether a file's first bytes are those of a Git LFS pointer, which stands in for a file until `git lfs pull`. */
export function isLfsPointer(start: Uint8Array | string): boolean {
  return POINTER.test(typeof start === 'string' ? start : Buffer.from(start.subarray(0, 64)).toString('latin1'))
}

/** Whether a file of this size may be a pointer. */
export function mayBeLfsPointer(bytes: number): boolean {
  return bytes <= MAX_BYTES
}

/** The error for a pointer, with advice. */
export function lfsAdvice(file: string): string {
  const directory = path.dirname(file)
  return `${file} is a Git LFS pointer, not the file itself: run "git lfs pull" in ${directory}`
}
