import { spawnSync } from 'node:child_process'
import os from 'node:os'
import { freePort } from '#lib/parallel/launcher.js'
import { Child, type Message } from './child.js'
import { deviceName } from './device.js'

/** What each process of a team is told, beside what they all are. */
export interface Member {
  rank: number
  size: number
  /** Where rank 0 is to be met. */
  port: number
}

/** Processes that work on one thing, each a rank of it: a line goes to all of them, and all answer. */
export class Team {
  private constructor(private readonly children: Child[]) {}

  /** @param contender what rank `member.rank` is */
  static async start(
    label: string,
    size: number,
    contender: (member: Member) => { command: string; args: string[] },
  ): Promise<Team> {
    const port = await freePort()
    const team = new Team(
      Array.from({ length: size }, (_, rank) => {
        const { command, args } = contender({ rank, size, port })
        // As the launcher starts them: a part of the cores, or a GPU of their own.
        const gpu = deviceName === 'cuda' ? { CUDA_VISIBLE_DEVICES: String(rank) } : {}
        return new Child(`${label}, rank ${rank} of ${size}`, command, args, threadsOf(size), gpu)
      }),
    )
    try {
      await Promise.all(team.children.map((child) => child.ready()))
    } catch (error) {
      team.kill()
      throw error
    }
    return team
  }

  /** The answer of each rank. */
  run(line: string): Promise<Message[]> {
    return Promise.all(this.children.map((child) => child.run(line)))
  }

  kill(): void {
    for (const child of this.children) child.kill()
  }
}

/** Threads of each of so many processes. */
export const threadsOf = (size: number) => Math.max(1, Math.floor(os.availableParallelism() / size))

/** How many ranks are measured here: 1, 2 and 4, of GPUs as many as there are. */
export function rankCounts(): number[] {
  if (deviceName === 'emulated') return []
  if (deviceName === 'cpu') return [1, 2, 4]
  const { stdout = '' } = spawnSync('nvidia-smi', ['-L'], { encoding: 'utf8' })
  const gpus = stdout?.match(/^GPU /gm)?.length ?? 1
  return [1, 2, 4, 8].filter((ranks) => ranks <= gpus)
}
