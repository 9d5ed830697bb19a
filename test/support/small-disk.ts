import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

/**
 * Runs a shell script with a temporary disk of this many megabytes at `$1`; the remaining arguments are the script's.
 */
export function withSmallDisk(script: string, disk: string, megabytes: number, ...args: string[]) {
  mkdirSync(disk, { recursive: true })
  const mount = `mount -t tmpfs -o size=${megabytes}m tmpfs "$1" || exit 99; ${script}`
  return spawnSync('unshare', ['--map-root-user', '--mount', 'sh', '-c', mount, 'sh', disk, ...args], {
    encoding: 'utf8',
  })
}

/** Whether this machine lets a user mount one. */
export const canMount = (() => {
  const directory = mkdtempSync(path.join(tmpdir(), 'openalpaca-disk-'))
  const { status } = withSmallDisk('exit 0', directory, 1)
  rmSync(directory, { recursive: true })
  return status === 0
})()
