import type { Choices } from './random.js'
import { fill, type Problem, type Skill } from './skill.js'

const SUM = ['What is {a} + {b}?', 'Add {a} and {b}.', 'Calculate {a} + {b}.', 'Add the two numbers.|{a}, {b}']
const LARGER = [
  'Which number is larger, {a} or {b}?',
  'Which is greater: {a} or {b}?',
  'Name the larger number.|{a}, {b}',
]
const SMALLER = [
  'Which number is smaller, {a} or {b}?',
  'Which is less: {a} or {b}?',
  'Name the smaller number.|{a}, {b}',
]
const PARITY = ['Is {n} even or odd?', 'Is the number {n} odd or even?', 'Say whether the number is even or odd.|{n}']
const LARGEST = ['What is the largest number in the list?|{list}', 'Find the maximum of {list}.']
const SMALLEST = ['What is the smallest number in the list?|{list}', 'Find the minimum of {list}.']

function ask(random: Choices, phrases: string[], values: Record<string, string | number>) {
  const [instruction, input = ''] = fill(random.pick(phrases), values).split('|')
  return { instruction, input }
}

/** The operands in order, so that a + b and b + a are the same problem. */
const unordered = (...numbers: number[]) => [...numbers].sort((x, y) => x - y).join(' ')

function different(random: Choices, count: number): number[] {
  const numbers = new Set<number>()
  while (numbers.size < count) numbers.add(random.integer(0, 99))
  return [...numbers]
}

function addition(random: Choices): Problem {
  const [a, b] = [random.integer(0, 99), random.integer(0, 99)]
  return { ...ask(random, SUM, { a, b }), output: `${a + b}`, identity: `add ${unordered(a, b)}` }
}

function comparison(random: Choices): Problem {
  const [a, b] = different(random, 2)
  const [phrases, answer] = random.chance(50) ? [LARGER, Math.max(a, b)] : [SMALLER, Math.min(a, b)]
  return { ...ask(random, phrases, { a, b }), output: `${answer}`, identity: `compare ${unordered(a, b)}` }
}

function parity(random: Choices): Problem {
  const n = random.integer(0, 999)
  return { ...ask(random, PARITY, { n }), output: n % 2 ? 'odd' : 'even', identity: `parity ${n}` }
}

function extremes(random: Choices): Problem {
  const numbers = different(random, random.integer(3, 4))
  const [phrases, answer] = random.chance(50) ? [LARGEST, Math.max(...numbers)] : [SMALLEST, Math.min(...numbers)]
  return {
    ...ask(random, phrases, { list: numbers.join(' ') }),
    output: `${answer}`,
    identity: `extremes ${unordered(...numbers)}`,
  }
}

export const NUMBER_SKILLS: Skill[] = [
  { name: 'addition', weight: 18, draw: addition },
  { name: 'comparing numbers', weight: 8, draw: comparison },
  { name: 'even or odd', weight: 3, draw: parity },
  { name: 'largest and smallest', weight: 12, draw: extremes },
]
