import { spawnSync } from 'node:child_process'
import os from 'node:os'
import { freePort } from '#lib/parallel/launcher.js'
import { Child, type Message } from './child.js'
import { deviceName } from './device.js'

/** The options of each process of a team, in addition to the common ones. */
export interface Member {
  rank: number
  size: number
  /** The address of rank 0's rendezvous. */
  port: number
}

/** Processes that work together, each as one rank: every line is sent to all of them, and all answer. */
export class Team {
  private constructor(private readonly children: Child[]) {}

  /** @param contender the role of rank `member.rank` */
  static async start(
    label: string,
    size: number,
    contender: (member: Member) => { command: string; args: string[] },
  ): Promise<Team> {
    const port = await freePort()
    const team = new Team(
      Array.from({ length: size }, (_, rank) => {
        const { command, args } = contender({ rank, size, port })
        // Like in the launcher: a share of the cores, or a separate GPU.
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

/** Threads per process for this number of processes. */
export const threadsOf = (size: number) => Math.max(1, Math.floor(os.availableParallelism() / size))

/** The numbers of ranks to measure: 1, 2, and 4, limited to the number of GPUs. */
export function rankCounts(): number[] {
  if (deviceName === 'emulated') return []
  if (deviceName === 'cpu') return [1, 2, 4]
  const { stdout = '' } = spawnSync('nvidia-smi', ['-L'], { encoding: 'utf8' })
  const gpus = stdout?.match(/^GPU /gm)?.length ?? 1
  return [1, 2, 4, 8].filter((ranks) => ranks <= gpus)
}
