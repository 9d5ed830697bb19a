/** Who this process is among the ranks of a run, as the program that started it says in the environment. */
import { ParallelError } from '../errors.js'

/** One rank of a run. */
export interface RankPlace {
  kind: 'rank'
  /** Who started it. */
  launcher: 'torchrun' | 'Open MPI' | 'Slurm'
  rank: number
  size: number
  /** Rank among those of this machine: the number of its GPU. */
  localRank: number
  /** Where rank 0 is. */
  address: string
  port: number
}

/** One machine of a run, on which the ranks are still to be started. */
export interface NodePlace {
  kind: 'node'
  launcher: 'Kubeflow'
  nodes: number
  nodeRank: number
  /** undefined: as many as are asked for by --gpus or --ranks. */
  ranksPerNode?: number
  address: string
  port: number
}

type Environment = Readonly<Record<string, string | undefined>>

const defaultPort = 29500

/**
 * Recognises torchrun, Open MPI, Slurm and Kubeflow, in this order; undefined for a process that a person has started.
 * @throws {ParallelError} `INVALID_ENVIRONMENT` when a variable is missing or no number
 */
export function placeFromEnvironment(env: Environment): RankPlace | NodePlace | undefined {
  if (env.RANK !== undefined && env.WORLD_SIZE !== undefined) return fromTorchrun(env)
  if (env.OMPI_COMM_WORLD_RANK !== undefined) return fromOpenMpi(env)
  if (env.SLURM_PROCID !== undefined && !isInteractive(env)) return fromSlurm(env)
  if (env.PET_NNODES !== undefined) return fromKubeflow(env)
  return undefined
}

function number(env: Environment, name: string, launcher: string, fallback?: number): number {
  const text = env[name]
  if (text === undefined && fallback !== undefined) return fallback
  if (text !== undefined && /^\d+$/.test(text)) return Number(text)
  throw new ParallelError(
    'INVALID_ENVIRONMENT',
    `this process seems to be started by ${launcher}, but ${name} is ${text === undefined ? 'missing' : `"${text}"`}, not a number`,
  )
}

function fromTorchrun(env: Environment): RankPlace {
  const get = (name: string, fallback?: number) => number(env, name, 'torchrun', fallback)
  // There torchrun itself listens on the port.
  const taken = env.TORCHELASTIC_USE_AGENT_STORE?.toLowerCase() === 'true'
  const rank = get('RANK')
  return {
    kind: 'rank',
    launcher: 'torchrun',
    rank,
    size: get('WORLD_SIZE'),
    localRank: get('LOCAL_RANK', rank),
    address: env.MASTER_ADDR ?? '127.0.0.1',
    port: get('MASTER_PORT', defaultPort) + (taken ? 1 : 0),
  }
}

function fromOpenMpi(env: Environment): RankPlace {
  const get = (name: string, fallback?: number) => number(env, name, 'Open MPI', fallback)
  const size = get('OMPI_COMM_WORLD_SIZE')
  if (env.MASTER_ADDR === undefined && get('OMPI_COMM_WORLD_LOCAL_SIZE', size) < size) {
    throw new ParallelError(
      'INVALID_ENVIRONMENT',
      'mpirun starts ranks on several machines, and they do not know where rank 0 is: add -x MASTER_ADDR=HOST, the ' +
        'first host of the list',
    )
  }
  return {
    kind: 'rank',
    launcher: 'Open MPI',
    rank: get('OMPI_COMM_WORLD_RANK'),
    size,
    localRank: get('OMPI_COMM_WORLD_LOCAL_RANK'),
    address: env.MASTER_ADDR ?? '127.0.0.1',
    port: get('MASTER_PORT', defaultPort),
  }
}

/** A shell that a person works in has the variables too. */
const isInteractive = ({ SLURM_JOB_NAME: name }: Environment) => name === 'bash' || name === 'interactive'

function fromSlurm(env: Environment): RankPlace {
  const get = (name: string, fallback?: number) => number(env, name, 'Slurm', fallback)
  return {
    kind: 'rank',
    launcher: 'Slurm',
    rank: get('SLURM_PROCID'),
    size: get('SLURM_NTASKS'),
    localRank: get('SLURM_LOCALID'),
    address: env.MASTER_ADDR ?? firstHost(env.SLURM_JOB_NODELIST ?? env.SLURM_NODELIST ?? '127.0.0.1'),
    // Jobs of one user may share a machine.
    port: get('MASTER_PORT', 20000 + (get('SLURM_JOB_ID', 0) % 10000)),
  }
}

/** The first of a list such as `node[07-09,12],login1`. */
export function firstHost(nodes: string): string {
  const [, prefix, ranges, suffix] = /^([^[,]*)(?:\[([^\]]*)\])?([^,]*)/.exec(nodes) as RegExpExecArray
  const first = ranges === undefined ? '' : ranges.split(/[,-]/)[0]
  return prefix + first + suffix
}

function fromKubeflow(env: Environment): NodePlace {
  const get = (name: string, fallback?: number) => number(env, name, 'Kubeflow', fallback)
  const perNode = env.PET_NPROC_PER_NODE
  return {
    kind: 'node',
    launcher: 'Kubeflow',
    nodes: get('PET_NNODES'),
    nodeRank: get('PET_NODE_RANK', 0),
    ranksPerNode: perNode === undefined || /^(auto|gpu|cpu)$/.test(perNode) ? undefined : get('PET_NPROC_PER_NODE'),
    address: env.PET_MASTER_ADDR ?? '127.0.0.1',
    port: get('PET_MASTER_PORT', defaultPort),
  }
}
