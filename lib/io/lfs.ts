import path from 'node:path'

const POINTER = /^version https:\/\/(git-lfs|hawser)\.github\.com\/spec\//
/** Far more than a pointer has. */
const MAX_BYTES = 1024

/** Whether a file's first bytes are those of a Git LFS pointer, which lies where `git lfs pull` has not put the file. */
export function isLfsPointer(start: Uint8Array | string): boolean {
  return POINTER.test(typeof start === 'string' ? start : Buffer.from(start.subarray(0, 64)).toString('latin1'))
}

/** Whether a file of so many bytes may be a pointer, so that it is worth a look. */
export function mayBeLfsPointer(bytes: number): boolean {
  return bytes <= MAX_BYTES
}

/** What a pointer is, and what to do about it. */
export function lfsAdvice(file: string): string {
  const directory = path.dirname(file)
  return `${file} is a Git LFS pointer, not the file itself: run "git lfs pull" in ${directory}`
}
