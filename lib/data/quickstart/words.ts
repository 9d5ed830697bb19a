import type { Choices } from './random.js'
import { drawFact, fill, type Problem, type Skill } from './skill.js'
import { CAPITALS, DAYS, MONTHS, NOUNS, OPPOSITES, SHORT_WORDS } from './vocabulary.js'

const REVERSE = ['Write the word {word} backwards.', 'Reverse the letters of {word}.', 'Reverse the word.|{word}']
const SPELL = ['Spell the word {word}.', 'How do you spell {word}?', 'Spell the word letter by letter.|{word}']
const FIRST = ['What is the first letter of {word}?', 'Which letter does {word} begin with?']
const LAST = ['What is the last letter of {word}?', 'Which letter does {word} end with?']
const COUNT = ['How many letters are in {word}?', 'Count the letters of the word {word}.', 'Count the letters.|{word}']
const PLURAL = [
  'What is the plural of {word}?',
  'Write the plural form of "{word}".',
  'Give the plural of the noun.|{word}',
]
const ANTONYM = [
  'What is the opposite of {fact}?',
  'Give the opposite of the word {fact}.',
  'Name an antonym of {fact}.',
  'Write the opposite of the word.|{fact}',
  'Which word means the opposite of {fact}?',
]
const CAPITAL = [
  'What is the capital of {fact}?',
  'Name the capital city of {fact}.',
  'Which city is the capital of {fact}?',
  'Give the capital of the country.|{fact}',
  'Tell me the capital of {fact}.',
]
const COUNTRY = [
  'Which country has the capital {fact}?',
  '{fact} is the capital of which country?',
  'Name the country whose capital is {fact}.',
  'Of which country is this city the capital?|{fact}',
]
const AFTER = [
  'What comes after {fact}?',
  'Which {kind} follows {fact}?',
  'Name the {kind} after {fact}.',
  'Which {kind} is next?|{fact}',
  'Tell me what follows {fact}.',
  'Write the {kind} after this one.|{fact}',
]
const BEFORE = [
  'What comes before {fact}?',
  'Which {kind} precedes {fact}?',
  'Name the {kind} before {fact}.',
  'Which {kind} is the one before?|{fact}',
  'Tell me what precedes {fact}.',
  'Write the {kind} before this one.|{fact}',
]

/** A word in capitals, from the list or invented, so that there are more than a model can memorize. */
function word(random: Choices): string {
  if (random.chance(50)) return random.pick(SHORT_WORDS).toUpperCase()
  let invented = ''
  for (let length = random.integer(3, 7); invented.length < length; ) {
    invented += random.pick([...(invented.length % 2 ? 'AEIOUAEIOY' : 'BCDFGHJKLMNPQRSTVWXZ')])
  }
  return invented
}

/** A skill that asks about the letters of a word. A held-out word is held out in all of them. */
function letters(...questions: [phrases: string[], answer: (word: string) => string][]) {
  return (random: Choices): Problem => {
    const text = word(random)
    const [phrases, answer] = random.pick(questions)
    const [instruction, input = ''] = fill(random.pick(phrases), { word: text }).split('|')
    return { instruction, input, output: answer(text), identity: `letters ${text}` }
  }
}

function plurals(random: Choices): Problem {
  const noun = random.pick(NOUNS)
  const [instruction, input = ''] = fill(random.pick(PLURAL), { word: noun.toUpperCase() }).split('|')
  return { instruction, input, output: plural(noun).toUpperCase(), identity: `plural ${noun}` }
}

/** The regular plural: a consonant and y become ies, a sibilant takes es. */
export function plural(noun: string): string {
  if (/[^aeiou]y$/.test(noun)) return noun.replace(/y$/, 'ies')
  return /(s|x|z|ch|sh|potato)$/.test(noun) ? `${noun}es` : `${noun}s`
}

const bothWays = (pairs: [string, string][]) => [...pairs, ...pairs.map(([a, b]): [string, string] => [b, a])]
const neighbors = (ring: string[], by: number) =>
  ring.map((name, i): [string, string] => [name, ring[(i + by + ring.length) % ring.length]])

function calendar(random: Choices): Problem {
  const [kind, ring] = random.pick([['day', DAYS] as const, ['month', MONTHS] as const])
  const [phrases, by] = random.pick([[AFTER, 1] as const, [BEFORE, -1] as const])
  const asked = phrases.map((phrase) => phrase.replace('{kind}', kind))
  return drawFact(random, `calendar ${by}`, neighbors(ring, by), asked)
}

export const WORD_SKILLS: Skill[] = [
  { name: 'reversing words', weight: 10, draw: letters([REVERSE, (w) => [...w].reverse().join('')]) },
  { name: 'spelling', weight: 4, draw: letters([SPELL, (w) => [...w].join('-')]) },
  { name: 'first and last letter', weight: 3, draw: letters([FIRST, (w) => w[0]], [LAST, (w) => w.slice(-1)]) },
  { name: 'counting letters', weight: 3, draw: letters([COUNT, (w) => `${w.length}`]) },
  { name: 'plurals', weight: 8, draw: plurals },
  {
    name: 'opposites',
    weight: 7,
    draw: (random: Choices) => drawFact(random, 'opposite', bothWays(OPPOSITES), ANTONYM),
  },
  {
    name: 'capitals',
    weight: 8,
    draw: (random: Choices) =>
      random.chance(60)
        ? drawFact(random, 'capital', CAPITALS, CAPITAL)
        : drawFact(random, 'country', bothWays(CAPITALS).slice(CAPITALS.length), COUNTRY),
  },
  { name: 'days and months', weight: 5, draw: calendar },
]
