import { PassThrough } from 'node:stream'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { paint } from '../../lib/cli/terminal.js'

const terminal = Object.assign(new PassThrough(), {
  isTTY: true,
  hasColors: () => true,
}) as unknown as NodeJS.WriteStream
const pipe = new PassThrough() as unknown as NodeJS.WriteStream

afterEach(() => vi.unstubAllEnvs())

function coloursWith(env: { NO_COLOR?: string; FORCE_COLOR?: string }) {
  vi.stubEnv('NO_COLOR', env.NO_COLOR)
  vi.stubEnv('FORCE_COLOR', env.FORCE_COLOR)
  return { terminal: paint(terminal, 'red', 'x') !== 'x', pipe: paint(pipe, 'red', 'x') !== 'x' }
}

describe('colors', () => {
  test('colors are used only for terminals', () => {
    expect(coloursWith({})).toEqual({ terminal: true, pipe: false })
  })

  test('colors can be disabled and forced', () => {
    expect(coloursWith({ NO_COLOR: '1' })).toEqual({ terminal: false, pipe: false })
    expect(coloursWith({ NO_COLOR: '' })).toEqual({ terminal: true, pipe: false })
    expect(coloursWith({ FORCE_COLOR: '1' })).toEqual({ terminal: true, pipe: true })
    expect(coloursWith({ FORCE_COLOR: '0' })).toEqual({ terminal: false, pipe: false })
    expect(coloursWith({ FORCE_COLOR: '1', NO_COLOR: '1' })).toEqual({ terminal: true, pipe: true })
  })
})
