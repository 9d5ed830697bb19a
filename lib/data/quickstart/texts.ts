import type { Choices } from './random.js'
import type { Problem, Skill } from './skill.js'
import { CATEGORIES } from './vocabulary.js'

const KINDS = Object.keys(CATEGORIES)
const article = (noun: string) => (/^[aeiou]/.test(noun) ? 'an' : 'a')

const problem = (instruction: string, input: string, output: string): Problem => ({
  instruction,
  input,
  output,
  identity: `${instruction} ${input}`,
})

/** Asks which of the words belongs to a category. The same words in any order are the same problem. */
function category(random: Choices): Problem {
  const kinds = random.sample(KINDS, 3)
  const list = kinds.map((kind) => random.pick(CATEGORIES[kind]))
  const identity = `category ${kinds[0]} ${[...list].sort().join(' ')}`
  const shown = random.sample(list, 3).join(', ')
  const kind = `${article(kinds[0])} ${kinds[0]}`
  const [instruction, input] = random.pick([
    [`Which of these words is ${kind}?`, shown],
    [`Find the word that names ${kind}.`, shown],
    [`Which one is ${kind}: ${shown}?`, ''],
  ])
  return { instruction, input, output: list[0], identity }
}

const ADJECTIVES = ['big', 'small', 'old', 'new', 'clean', 'dirty', 'wet', 'dry', 'cold', 'heavy', 'red', 'green']

/** Rewrites a plain statement as a question or a denial. */
function sentences(random: Choices): Problem {
  const noun = random.pick(CATEGORIES[random.pick(['animal', 'fruit', 'tool', 'vehicle'])])
  const adjective = random.pick(ADJECTIVES)
  const input = `The ${noun} is ${adjective}.`
  return random.chance(50)
    ? problem('Turn the statement into a question.', input, `Is the ${noun} ${adjective}?`)
    : problem('Make the sentence negative.', input, `The ${noun} is not ${adjective}.`)
}

export const TEXT_SKILLS: Skill[] = [
  { name: 'categories', weight: 4, draw: category },
  { name: 'rewriting sentences', weight: 4, draw: sentences },
]
