import { NUMBER_SKILLS } from './numbers.js'
import { Choices, hash } from './random.js'
import type { Problem, Skill } from './skill.js'
import { TEXT_SKILLS } from './texts.js'
import { WORD_SKILLS } from './words.js'

/** An instruction of the quickstart, and its skill. */
export interface QuickstartRow {
  instruction: string
  input: string
  output: string
  skill: string
}

export const QUICKSTART_SKILLS: readonly Skill[] = [...NUMBER_SKILLS, ...WORD_SKILLS, ...TEXT_SKILLS]

/** Whether a problem is held out from training: one in ten, or one phrasing of each fact. */
function isHeldOut({ identity, phrasing }: Problem, seed: number): boolean {
  const h = hash(`${seed} ${identity}`)
  return phrasing ? h % phrasing.of === phrasing.index : h % 10 === 0
}

function draw(skill: Skill, random: Choices, seed: number, heldOut: boolean): QuickstartRow {
  for (;;) {
    const problem = skill.draw(random)
    if (isHeldOut(problem, seed) !== heldOut) continue
    const { instruction, input, output } = problem
    return { instruction, input, output, skill: skill.name }
  }
}

/**
 * The quickstart's instructions: `count` for training, and `heldOutPerSkill` distinct ones of each skill whose problems
 * no training row contains.
 */
export function generateQuickstart({
  seed,
  count = 150_000,
  heldOutPerSkill = 40,
}: {
  seed: number
  count?: number
  heldOutPerSkill?: number
}): { train: QuickstartRow[]; heldOut: QuickstartRow[] } {
  const random = new Choices(seed)
  const lots = QUICKSTART_SKILLS.flatMap((skill) => new Array<Skill>(skill.weight).fill(skill))
  const train = Array.from({ length: count }, () => draw(random.pick(lots), random, seed, false))
  const heldOut = QUICKSTART_SKILLS.flatMap((skill) => {
    const rows = new Map<string, QuickstartRow>()
    for (let tries = 0; rows.size < heldOutPerSkill && tries < 100 * heldOutPerSkill; tries++) {
      const row = draw(skill, random, seed, true)
      rows.set(`${row.instruction}\n${row.input}`, row)
    }
    return [...rows.values()]
  })
  return { train, heldOut }
}
