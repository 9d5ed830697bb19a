import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { StopStrings } from '../../lib/generate/stop-strings.js'

/** The output for a text that arrives in pieces. */
function through(pieces: string[], strings: string[]): string {
  const stop = new StopStrings(strings)
  return pieces.map((piece) => stop.push(piece)).join('') + stop.flush()
}

/** The text before the first complete stop string, computed one character at a time. */
function before(text: string, strings: string[]): string {
  for (let end = 1; end <= text.length; end++) {
    const lengths = strings.filter((string) => text.slice(0, end).endsWith(string)).map(({ length }) => length)
    if (lengths.length > 0) return text.slice(0, end - Math.max(...lengths))
  }
  return text
}

describe('stop strings', () => {
  test('stop strings end a text, also across pieces', () => {
    expect(through(['Hello\n', '\n##', '# Input'], ['\n\n###'])).toBe('Hello')
    expect(through(['a', 'b', 'c'], ['bc', 'ab'])).toBe('')
    expect(through(['abba'], ['b', 'abba'])).toBe('a')
    expect(through(['abc'], [])).toBe('abc')
  })

  test('stop strings hold back only text that may become part of one', () => {
    const stop = new StopStrings(['END'])
    expect(stop.push('the E')).toBe('the ')
    expect(stop.push('N')).toBe('')
    expect(stop.push('ergy')).toBe('ENergy')
    expect(stop.stopped).toBe(false)
    expect(stop.push('EN')).toBe('')
    expect(stop.flush()).toBe('EN')
  })

  test('stop strings emit nothing after the end', () => {
    const stop = new StopStrings(['.'])
    expect(stop.push('a.b')).toBe('a')
    expect(stop.stopped).toBe(true)
    expect(stop.push('c') + stop.flush()).toBe('')
  })

  test('stop strings cut a text at their first occurrence, for any split into pieces', () => {
    const letters = (size: number) => fc.stringMatching(new RegExp(`^[ab]{1,${size}}$`))
    fc.assert(
      fc.property(fc.array(letters(4)), fc.array(letters(4), { maxLength: 3 }), (pieces, strings) => {
        expect(through(pieces, strings)).toBe(before(pieces.join(''), strings))
      }),
      { seed: 10, numRuns: 500 },
    )
  })
})
