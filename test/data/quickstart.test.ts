import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { formatPrompt } from '../../lib/data/prompt.js'
import { answersToShow, scoreAnswers } from '../../lib/data/quickstart/evaluate.js'
import { generateQuickstart, QUICKSTART_SKILLS, type QuickstartRow } from '../../lib/data/quickstart/generator.js'
import {
  CAPITALS,
  CATEGORIES,
  DAYS,
  MONTHS,
  NOUNS,
  OPPOSITES,
  SHORT_WORDS,
} from '../../lib/data/quickstart/vocabulary.js'
import { plural } from '../../lib/data/quickstart/words.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'

const asked = ({ instruction, input }: QuickstartRow) => `${instruction}\n${input}`
const numbersOf = (row: QuickstartRow) => (asked(row).match(/\d+/g) ?? []).map(Number)
const wordOf = (row: QuickstartRow) => asked(row).match(/[A-Z]{2,}/)![0]
/** The items of a list: the text between the last colon or line break and the end. */
const itemsOf = (row: QuickstartRow) => (row.input || row.instruction.split(': ')[1].replace('?', '')).split(', ')
const mentions = (row: QuickstartRow, pattern: RegExp) => pattern.test(row.instruction)
const turn = (text: string) => text.split('').reverse().join('')

/** Solves an instruction like a person would, independently of the generator. */
const solvers: Record<string, (row: QuickstartRow) => string> = {
  addition: (row) => String(numbersOf(row)[0] + numbersOf(row)[1]),
  'comparing numbers': (row) =>
    String(mentions(row, /larger|greater/) ? Math.max(...numbersOf(row)) : Math.min(...numbersOf(row))),
  'even or odd': (row) => (/[13579]$/.test(String(numbersOf(row)[0])) ? 'odd' : 'even'),
  'largest and smallest': (row) =>
    String(mentions(row, /largest|maximum/) ? Math.max(...numbersOf(row)) : Math.min(...numbersOf(row))),
  'reversing words': (row) => turn(wordOf(row)),
  spelling: (row) => wordOf(row).split('').join('-'),
  'first and last letter': (row) => (mentions(row, /first|begin/) ? wordOf(row)[0] : turn(wordOf(row))[0]),
  'counting letters': (row) => String(wordOf(row).length),
  plurals: (row) => plural(wordOf(row).toLowerCase()).toUpperCase(),
  opposites: (row) => lookUp(row, [...OPPOSITES, ...OPPOSITES.map(([a, b]): [string, string] => [b, a])]),
  capitals: (row) =>
    lookUp(row, mentions(row, /country\b(?!\.)/) ? CAPITALS.map(([a, b]): [string, string] => [b, a]) : CAPITALS),
  'days and months': (row) => {
    const ring = [DAYS, MONTHS].find((names) => names.some((name) => asked(row).includes(name)))!
    const by = mentions(row, /after|follows|next/) ? 1 : ring.length - 1
    return ring[(ring.findIndex((name) => asked(row).includes(name)) + by) % ring.length]
  },
  categories: (row) => {
    const kind = Object.keys(CATEGORIES).find((name) => row.instruction.includes(` ${name}`))!
    const fitting = itemsOf(row).filter((item) => CATEGORIES[kind].includes(item))
    expect(fitting).toHaveLength(1)
    return fitting[0]
  },
  'rewriting sentences': (row) => {
    const [, noun, adjective] = row.input.match(/^The (\w+) is (\w+)\.$/)!
    return mentions(row, /question/) ? `Is the ${noun} ${adjective}?` : `The ${noun} is not ${adjective}.`
  },
}

/** The subject of a question, regardless of its wording: training and held-out rows must not share one. */
const problems: Record<string, (row: QuickstartRow) => string> = {
  addition: (row) => numbersOf(row).sort().join(' '),
  'comparing numbers': (row) => numbersOf(row).sort().join(' '),
  'even or odd': (row) => String(numbersOf(row)),
  'largest and smallest': (row) => numbersOf(row).sort().join(' '),
  'reversing words': wordOf,
  spelling: wordOf,
  'first and last letter': wordOf,
  'counting letters': wordOf,
  plurals: wordOf,
  categories: (row) => row.output + itemsOf(row).sort().join(' '),
}
const LETTER_SKILLS = ['reversing words', 'spelling', 'first and last letter', 'counting letters']

function lookUp(row: QuickstartRow, pairs: [string, string][]): string {
  const found = pairs.filter(([fact]) => new RegExp(`\\b${fact}\\b`).test(row.input || row.instruction))
  // The phrases themselves contain words such as "word" and "of": the longest fact is the subject.
  return found.sort(([a], [b]) => b.length - a.length)[0][1]
}

describe('the quickstart data', () => {
  const data = generateQuickstart({ seed: 0, count: 30_000 })

  it('the same seed gives the same quickstart data, and another seed gives other data', () => {
    const small = (seed: number) => generateQuickstart({ seed, count: 500, heldOutPerSkill: 5 })
    expect(small(3)).toEqual(small(3))
    expect(small(4).train).not.toEqual(small(3).train)
    expect(small(4).heldOut).not.toEqual(small(3).heldOut)
  })

  it('every quickstart row has the correct answer', () => {
    for (const row of [...data.train, ...data.heldOut]) expect(solvers[row.skill](row), asked(row)).toBe(row.output)
  })

  it('both parts of the quickstart data have every skill, with and without an input', () => {
    const names = QUICKSTART_SKILLS.map(({ name }) => name)
    expect(new Set(data.train.map(({ skill }) => skill))).toEqual(new Set(names))
    expect([...new Set(data.heldOut.map(({ skill }) => skill))]).toEqual(names)
    const withInput = data.train.filter(({ input }) => input).length / data.train.length
    expect(withInput).toBeGreaterThan(0.25)
    expect(withInput).toBeLessThan(0.75)
  })

  it('holds out the requested number of rows per skill, none of them twice', () => {
    expect(new Set(data.heldOut.map(asked)).size).toBe(data.heldOut.length)
    for (const { name } of QUICKSTART_SKILLS) {
      const rows = data.heldOut.filter(({ skill }) => skill === name)
      expect(rows.length, name).toBeLessThanOrEqual(40)
      expect(rows.length, name).toBeGreaterThanOrEqual(name === 'days and months' ? 30 : 40)
    }
  })

  it('never trains on a held-out instruction', () => {
    const trained = new Set(data.train.map(asked))
    expect(data.heldOut.filter((row) => trained.has(asked(row)))).toEqual([])
  })

  it('never trains on a held-out problem in another wording or order', () => {
    const group = (skill: string) => (LETTER_SKILLS.includes(skill) ? 'letters' : skill)
    const key = (row: QuickstartRow) => `${group(row.skill)}: ${problems[row.skill](row)}`
    const covered = (row: QuickstartRow) => row.skill in problems
    const trained = new Set(data.train.filter(covered).map(key))
    expect(data.heldOut.filter(covered).filter((row) => trained.has(key(row)))).toEqual([])
  })

  it('training contains every held-out fact, in a different wording', () => {
    for (const skill of ['opposites', 'capitals', 'days and months']) {
      const told = new Set(data.train.filter((row) => row.skill === skill).map(({ output }) => output))
      for (const row of data.heldOut.filter((row) => row.skill === skill)) expect(told).toContain(row.output)
    }
  })
})

describe('the vocabulary of the quickstart', () => {
  it('quickstart words are all different, so that no question has two answers', () => {
    const facts = [OPPOSITES.flat(), CAPITALS.flat(), Object.values(CATEGORIES).flat(), [...DAYS, ...MONTHS]]
    for (const list of [...facts, SHORT_WORDS, NOUNS]) expect(new Set(list).size).toBe(list.length)
  })

  it('quickstart words have English plurals', () => {
    const plurals = { cat: 'cats', box: 'boxes', church: 'churches', dish: 'dishes', class: 'classes', bus: 'buses' }
    const more = { city: 'cities', boy: 'boys', key: 'keys', prize: 'prizes', potato: 'potatoes', roof: 'roofs' }
    for (const [noun, expected] of Object.entries({ ...plurals, ...more })) expect(plural(noun)).toBe(expected)
  })
})

describe('the quickstart tokenizer', () => {
  let tokenizer: LlamaTokenizer
  beforeAll(async () => {
    tokenizer = await LlamaTokenizer.fromPretrained(join(__dirname, '../../recipes/quickstart'))
  })

  it('the quickstart tokenizer restores every text of every row, in a few tokens each', () => {
    const { train, heldOut } = generateQuickstart({ seed: 1, count: 5000 })
    let tokens = 0
    for (const row of [...train, ...heldOut]) {
      for (const text of [formatPrompt(row), row.output]) {
        const ids = tokenizer.encode(text, { addSpecialTokens: false })
        expect(tokenizer.decode(ids)).toBe(text)
        tokens += ids.length
      }
    }
    expect(tokens / (train.length + heldOut.length)).toBeLessThan(16)
  })

  it('the quickstart tokenizer never encodes text as special tokens', () => {
    expect(tokenizer.encode('</s>', { addSpecialTokens: false })).not.toContain(tokenizer.eosTokenId)
  })
})

describe('the quickstart score', () => {
  const rows = generateQuickstart({ seed: 0, count: 1, heldOutPerSkill: 3 }).heldOut

  it('the score counts only exact answers', () => {
    const answers = rows.map(({ output }, i) => (i % 3 === 0 ? ` ${output}\n` : i % 3 === 1 ? `${output}.` : output))
    const { correct, total, skills } = scoreAnswers(rows, answers)
    expect([correct, total]).toEqual([2 * QUICKSTART_SKILLS.length, 3 * QUICKSTART_SKILLS.length])
    expect(skills).toEqual(QUICKSTART_SKILLS.map(({ name }) => ({ skill: name, correct: 2, total: 3 })))
  })

  it('the score shows three answers of different skills, right or wrong', () => {
    const shown = answersToShow(
      rows,
      rows.map(() => 'alpaca'),
    )
    expect(shown.map(({ skill }) => skill)).toEqual(['addition', 'reversing words', 'capitals'])
    expect(
      shown.every(({ answer, input, output }) => answer === 'alpaca' && output !== undefined && input !== undefined),
    ).toBe(true)
  })
})
