import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { describe, expect, it } from 'vitest'

/** The emulator's result for a kernel of selftest.cu. */
function outcome(kernel: string): string {
  const program = path.join(__dirname, '../../build/emulated/emulator-selftest')
  return execFileSync(program, [kernel], { encoding: 'utf8' }).trimEnd()
}

describe('the emulator runs a kernel', () => {
  it.each([
    ['sums_a_block', 'no error: 2080 2080 2080 2080'],
    ['reverses_through_shared_memory', 'no error: 64 63 2 1'],
    ['passes_on_within_a_warp', 'no error: 2 1 64 63'],
    ['copies_with_cp_async', 'no error: 64 63 2 1'],
    ['counts_with_atomics', 'no error: 128 128 128 128'],
    ['multiplies_in_tensor_cores', 'no error: 0 0 0 0'],
  ])('the emulator runs the kernel %s', (kernel, result) => expect(outcome(kernel)).toBe(result))
})

describe('the emulator detects an error in a kernel', () => {
  const memory = (what: string) => `outside of device memory: ${what}, which has 64 elements of 4 bytes`
  const under = 'while a cp.async of thread \\d+ to it is under way: it needs a cp_async_wait first'
  it.each([
    ['writes_past_the_end', 'thread 5: ', memory('element 69 of kernel argument 1')],
    ['reads_before_the_start', 'thread 0: ', memory('element -1 of kernel argument 2')],
    ['loads_past_the_end', 'thread 9: ', memory('4 elements from 64 on of kernel argument 2')],
    ['loads_misaligned', '', 'misaligned: an access of 16 bytes to device memory at an address that is 4 past'],
    ['writes_past_shared_memory', '', 'outside of shared memory: "tile"\\[\\d+\\], which has 32 elements'],
    ['reads_what_nobody_wrote', 'thread 7: ', 'reads "tile"\\[7\\], which is uninitialized'],
    ['takes_too_much', '', 'takes 25600 bytes of shared memory as "tile" from byte 0 on, but was launched with 2048'],
    ['forgets_a_barrier', '', 'reads "tile"\\[\\d+\\], which is uninitialized'],
    ['forgets_the_second_barrier', '', '"tile"\\[(\\d+)\\] that thread \\1 wrote with no barrier between'],
    ['forgets_a_barrier_before_writing', '', 'writes "tile"\\[\\d+\\] that .* read with no barrier between'],
    ['trusts_a_shuffle', '', 'reads "tile"\\[(\\d+)\\] that thread \\1 wrote with no barrier between'],
    ['reads_before_the_wait', '', `reads "tile"\\[\\d+\\] ${under}`],
    ['waits_for_too_few', '', `reads "tile"\\[\\d+\\] ${under}`],
    ['forgets_the_barrier_after_a_copy', '', 'reads "tile"\\[\\d+\\], which is uninitialized'],
    ['diverges_at_a_barrier', '', 'divergent barrier: this thread is at __syncthreads \\(selftest.cu:\\d+\\) while'],
    [
      'ends_before_a_barrier',
      '',
      'divergent barrier: threads 0 to 59 wait at __syncthreads \\(selftest.cu:\\d+\\), threads 60 to 63 have ended',
    ],
    [
      'diverges_within_a_warp',
      '',
      'divergent warp: this lane is at __shfl_xor_sync \\(selftest.cu:\\d+\\) while others',
    ],
    ['leaves_lanes_out', '', 'deadlock: threads 0 to 15 wait at __shfl_xor_sync .*, threads 16 to 31 have ended'],
    [
      'waits_in_a_circle',
      '',
      'deadlock: threads 0 to 31 wait at __syncthreads .*, threads 32 to 62 wait at __syncwarp .*, thread 63 waits at __sync',
    ],
  ])('the emulator names the location of the error in %s', (kernel, thread, text) =>
    expect(outcome(kernel)).toMatch(new RegExp(`^${kernel}, block.*${thread}.*${text}`)),
  )

  it('the emulator stays usable after an error', () => {
    expect(outcome('forgets_a_barrier')).not.toMatch('no error')
    const program = path.join(__dirname, '../../build/emulated/emulator-selftest')
    const both = execFileSync(program, ['ends_before_a_barrier', 'sums_a_block'], { encoding: 'utf8' }).split('\n')
    expect(both[0]).toMatch('divergent barrier')
    expect(both[1]).toBe('no error: 2080 2080 2080 2080')
  })
})
