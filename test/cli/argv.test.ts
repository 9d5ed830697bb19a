import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { normalizeArgv } from '../../lib/cli/argv.js'

const takesValue = (flag: string) => ['--instruction', '--learning_rate', '--max_words'].includes(flag)
const normalize = (...argv: string[]) => normalizeArgv(argv, takesValue)

describe('flags', () => {
  test('normalizes flags to underscores, however they were typed', () => {
    expect(normalize('train', '--learning-rate', '1e-5', '--raw-prompt', '--max_words=3')).toEqual([
      'train',
      '--learning_rate',
      '1e-5',
      '--raw_prompt',
      '--max_words=3',
    ])
    expect(normalize('--max-words=a-b')).toEqual(['--max_words=a-b'])
    expect(normalize('--model.hidden-size', '3')).toEqual(['--model.hidden_size', '3'])
  })

  test('leaves values unchanged, even those that look like flags', () => {
    expect(normalize('--instruction', '--raw-prompt', '--raw-prompt')).toEqual([
      '--instruction',
      '--raw-prompt',
      '--raw_prompt',
    ])
    expect(normalize('process-dataset', '-h', 'a-b')).toEqual(['process-dataset', '-h', 'a-b'])
  })

  test('stops at a double dash', () => {
    expect(normalize('--raw-prompt', '--', '--raw-prompt')).toEqual(['--raw_prompt', '--', '--raw-prompt'])
  })

  test('is idempotent, and loses no argument', () => {
    const argument = fc.oneof(fc.string(), fc.stringMatching(/^--[a-z][a-z_-]{0,8}(=.{0,4})?$/))
    fc.assert(
      fc.property(fc.array(argument), (argv) => {
        const once = normalizeArgv(argv, takesValue)
        expect(once).toHaveLength(argv.length)
        expect(normalizeArgv(once, takesValue)).toEqual(once)
      }),
      { seed: 9 },
    )
  })
})
