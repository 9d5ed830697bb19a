import type { Choices } from './random.js'
import { fill, type Problem, type Skill } from './skill.js'
import { CAPITALS, CATEGORIES, NAMES } from './vocabulary.js'
import { plural } from './words.js'

const KINDS = Object.keys(CATEGORIES)
const THINGS = KINDS.flatMap((kind) => CATEGORIES[kind])
const CITIES = CAPITALS.map(([, city]) => city).slice(0, 20)
const article = (noun: string) => (/^[aeiou]/.test(noun) ? 'an' : 'a')

const problem = (instruction: string, input: string, output: string): Problem => ({
  instruction,
  input,
  output,
  identity: `${instruction} ${input}`,
})

/** Which of the words belongs to a category. The same words are the same problem in any order. */
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

const ORDINALS = ['first', 'second', 'third', 'fourth']

/** Taking an item from a list, turning the list round, or counting it. */
function lists(random: Choices): Problem {
  const list = random.sample(THINGS, random.integer(3, 4))
  const input = list.join(', ')
  switch (random.integer(0, 3)) {
    case 0: {
      const position = random.integer(0, list.length - 1)
      return problem(`What is the ${ORDINALS[position]} word in the list?`, input, list[position])
    }
    case 1:
      return problem('What is the last word in the list?', input, list[list.length - 1])
    case 2:
      return problem('Write the list in reverse order.', input, [...list].reverse().join(', '))
    default:
      return problem('How many words are in the list?', input, `${list.length}`)
  }
}

function alphabetical(random: Choices): Problem {
  const list: string[] = []
  while (list.length < 3) {
    const next = random.pick(THINGS)
    if (list.every((word) => word[0] !== next[0])) list.push(next)
  }
  const sorted = [...list].sort()
  const [instruction, input] = random.pick([
    ['Sort the words alphabetically.', list.join(', ')],
    [`Put these words in alphabetical order: ${list.join(', ')}`, ''],
  ])
  return { instruction, input, output: sorted.join(', '), identity: `alphabetical ${sorted.join(' ')}` }
}

/** A short text about two people, and a question about one of them. */
function reading(random: Choices): Problem {
  const people = random.sample(NAMES, 2)
  const who = random.integer(0, 1)
  const cities = random.sample(CITIES, 2)
  const animals = random.sample(CATEGORIES.animal, 2)
  const fruits = random.sample(CATEGORIES.fruit, 2).map(plural)
  const jobs = random.sample(CATEGORIES.job, 2)
  const counts = [random.integer(2, 9), random.integer(2, 9)]
  const tell = (sentence: string) =>
    people
      .map((name, i) =>
        fill(sentence, {
          name,
          city: cities[i],
          animal: animals[i],
          a: article(animals[i]),
          fruit: fruits[i],
          job: jobs[i],
          n: counts[i],
        }),
      )
      .join(' ')
  const name = people[who]
  const animal = `${article(animals[who])} ${animals[who]}`
  switch (random.integer(0, 2)) {
    case 0: {
      const text = tell('{name} lives in {city} and has {a} {animal}.')
      return random.chance(50)
        ? problem(`Where does ${name} live?`, text, `${name} lives in ${cities[who]}.`)
        : problem(`Which animal does ${name} have?`, text, `${name} has ${animal}.`)
    }
    case 1: {
      const text = tell('{name} bought {n} {fruit}.')
      return random.chance(50)
        ? problem(`How many ${fruits[who]} did ${name} buy?`, text, `${name} bought ${counts[who]} ${fruits[who]}.`)
        : problem(`Who bought ${fruits[who]}?`, text, name)
    }
    default: {
      const text = tell('{name} is a {job} in {city}.')
      return random.chance(50)
        ? problem(`What is the job of ${name}?`, text, `${name} is a ${jobs[who]}.`)
        : problem(`Who works as a ${jobs[who]}?`, text, name)
    }
  }
}

const ADJECTIVES = ['big', 'small', 'old', 'new', 'clean', 'dirty', 'wet', 'dry', 'cold', 'heavy', 'red', 'green']

/** Rewriting a plain statement as a question or a denial. */
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
  { name: 'lists', weight: 5, draw: lists },
  { name: 'alphabetical order', weight: 6, draw: alphabetical },
  { name: 'reading', weight: 6, draw: reading },
  { name: 'rewriting sentences', weight: 3, draw: sentences },
]
