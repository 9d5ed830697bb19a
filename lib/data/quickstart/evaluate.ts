import type { QuickstartRow } from './generator.js'

export interface SkillScore {
  skill: string
  correct: number
  total: number
}

/** A model's score on held-out instructions. */
export interface QuickstartScore {
  correct: number
  total: number
  /** In the order in which they appear in the rows. */
  skills: SkillScore[]
}

/** A held-out instruction and the model's answer. */
export interface AnsweredRow extends QuickstartRow {
  answer: string
}

/** The skills whose first held-out instruction is shown: one each about numbers, letters, and facts. */
const SHOWN_SKILLS = ['addition', 'reversing words', 'capitals']

/**
 * Counts the correct answers: those that equal the expected text except for surrounding white space.
 * @param answers one for each of `rows`, in order
 */
export function scoreAnswers(rows: readonly QuickstartRow[], answers: readonly string[]): QuickstartScore {
  const skills = new Map<string, SkillScore>()
  for (const [i, { skill, output }] of rows.entries()) {
    const score = skills.get(skill) ?? { skill, correct: 0, total: 0 }
    score.total++
    if (answers[i].trim() === output) score.correct++
    skills.set(skill, score)
  }
  const correct = [...skills.values()].reduce((sum, score) => sum + score.correct, 0)
  return { correct, total: rows.length, skills: [...skills.values()] }
}

/** Three answers to show, of three different skills, chosen without regard to correctness. */
export function answersToShow(rows: readonly QuickstartRow[], answers: readonly string[]): AnsweredRow[] {
  const first = SHOWN_SKILLS.map((shown) => rows.findIndex(({ skill }) => skill === shown))
  return first.filter((i) => i >= 0).map((i) => ({ ...rows[i], answer: answers[i].trim() }))
}
