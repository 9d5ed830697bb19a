/** Reads this process's rank in a run from the environment that the launcher sets. */
import { isIPv6 } from 'node:net'
import { ParallelError } from '../errors.js'

/** One rank of a run. */
export interface RankPlace {
  kind: 'rank'
  /** The program that started it. */
  launcher: 'torchrun' | 'Open MPI' | 'Slurm' | 'MPICH' | 'PMIx'
  rank: number
  size: number
  /** Rank within this machine: the index of its GPU. */
  localRank: number
  /** Address of rank 0. */
  address: string
  port: number
}

/** One machine of a run whose ranks are yet to be started. */
export interface NodePlace {
  kind: 'node'
  launcher: 'Kubeflow'
  nodes: number
  nodeRank: number
  /** undefined: the number from --gpus or --ranks. */
  ranksPerNode?: number
  address: string
  port: number
}

type Environment = Readonly<Record<string, string | undefined>>
type Launcher = (RankPlace | NodePlace)['launcher']

const thisMachine = '127.0.0.1'
const defaultPort = 29500

/**
 * Recognizes torchrun, Open MPI, Slurm, MPICH, PMIx, and Kubeflow, in this order; undefined for a process started by
 * hand. An empty variable counts as missing.
 * @throws {ParallelError} `INVALID_ENVIRONMENT` for a variable that is missing, invalid, or contradicts another
 */
export function placeFromEnvironment(environment: Environment): RankPlace | NodePlace | undefined {
  const env = withoutBlanks(environment)
  const place = findPlace(env)
  if (place?.kind !== 'rank') return place
  const names = variables[place.launcher]
  if (place.rank >= place.size) {
    throw refusal(
      `${names.rank} is ${place.rank} and ${names.size} is ${place.size}`,
      `set ${names.rank} to a number from 0 to ${place.size - 1}`,
    )
  }
  // A job script may set one of torchrun's variables for programs that read the other from their launcher.
  for (const [name, value] of [
    ['RANK', place.rank],
    ['WORLD_SIZE', place.size],
  ] as const) {
    if (env[name] === undefined || Number(env[name]) === value) continue
    const ours = name === 'RANK' ? names.rank : names.size
    throw refusal(`${name} is ${env[name]} and ${ours}, which ${place.launcher} has set, is ${value}`, `unset ${name}`)
  }
  return place
}

/** The variables with a rank's number and the number of ranks. */
const variables = {
  torchrun: { rank: 'RANK', size: 'WORLD_SIZE' },
  'Open MPI': { rank: 'OMPI_COMM_WORLD_RANK', size: 'OMPI_COMM_WORLD_SIZE' },
  Slurm: { rank: 'SLURM_PROCID', size: 'SLURM_NTASKS' },
  MPICH: { rank: 'PMI_RANK', size: 'PMI_SIZE' },
  PMIx: { rank: 'PMIX_RANK', size: 'WORLD_SIZE' },
} satisfies Record<RankPlace['launcher'], { rank: string; size: string }>

function findPlace(env: Environment): RankPlace | NodePlace | undefined {
  const has = (launcher: RankPlace['launcher']) =>
    env[variables[launcher].rank] !== undefined || env[variables[launcher].size] !== undefined
  if (env.RANK !== undefined && env.WORLD_SIZE !== undefined) return fromTorchrun(env)
  if (has('Open MPI')) return fromOpenMpi(env)
  if (env.SLURM_PROCID !== undefined && !isInteractive(env) && !isProxyOfMpich(env)) return fromSlurm(env)
  if (has('MPICH')) return fromMpich(env)
  if (env.PMIX_RANK !== undefined) return fromPmix(env)
  if (env.PET_NNODES !== undefined) return fromKubeflow(env)
  return has('torchrun') ? fromTorchrun(env) : undefined // reports the missing one
}

function withoutBlanks(env: Environment): Environment {
  const trimmed = Object.entries(env).map(([name, value]) => [name, value?.trim()] as const)
  return Object.fromEntries(trimmed.filter(([, value]) => value))
}

function refusal(problem: string, advice: string): ParallelError {
  return new ParallelError('INVALID_ENVIRONMENT', `${problem}: ${advice}`)
}

/** Reads the numbers that one launcher sets. */
function reader(env: Environment, launcher: Launcher) {
  const number = (name: string, { fallback, least = 0 }: { fallback?: number; least?: number } = {}): number => {
    const text = env[name]
    if (text === undefined && fallback !== undefined) return fallback
    if (text === undefined) {
      throw refusal(
        `${name} is missing, and other variables of ${launcher} are set`,
        `set ${name}, or unset ${set(env, launcher)} to train in one process`,
      )
    }
    if (/^\d+$/.test(text) && Number.isSafeInteger(Number(text)) && Number(text) >= least) return Number(text)
    throw refusal(`${name} is "${text}"; expected a whole number of at least ${least}`, `set it, or unset it`)
  }
  const port = (name: string, fallback: number, last = 65535): number => {
    const text = env[name]
    if (text === undefined) return fallback
    if (/^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= last) return Number(text)
    throw refusal(
      `${name} is "${text}"; expected a port from 1 to ${last}`,
      "set it to one that rank 0's machine has free",
    )
  }
  return { number, port }
}

/** The variables that identify this launcher, for errors. */
function set(env: Environment, launcher: Launcher): string {
  const names = launcher === 'Kubeflow' ? ['PET_NNODES'] : Object.values(variables[launcher])
  return names.filter((name) => env[name] !== undefined).join(' and ')
}

/** A name or an address; an IPv6 address may be in brackets, as before a port. */
function address(env: Environment, name: string): string | undefined {
  const text = env[name]
  if (text === undefined) return undefined
  const host = /^\[(.*)\]$/.exec(text)?.[1] ?? text
  const isName = /^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$/.test(host)
  if (host === text ? isName || isIPv6(host) : isIPv6(host)) return host
  throw refusal(
    `${name} is "${text}"; expected the name or the address of rank 0's machine alone`,
    'set it so; the port goes into MASTER_PORT',
  )
}

function fromTorchrun(env: Environment): RankPlace {
  const { number, port } = reader(env, 'torchrun')
  const rank = number('RANK')
  const size = number('WORLD_SIZE', { least: 1 })
  const localRank = number('LOCAL_RANK', { fallback: rank })
  const localSize = number('LOCAL_WORLD_SIZE', { fallback: Number.POSITIVE_INFINITY, least: 1 })
  if (env.LOCAL_RANK !== undefined && localRank >= localSize) {
    throw refusal(
      `LOCAL_RANK is ${localRank} and LOCAL_WORLD_SIZE is ${localSize}`,
      `set LOCAL_RANK to a number from 0 to ${localSize - 1}`,
    )
  }
  // In that case torchrun itself listens on the port.
  const taken = env.TORCHELASTIC_USE_AGENT_STORE?.toLowerCase() === 'true'
  return {
    kind: 'rank',
    launcher: 'torchrun',
    rank,
    size,
    localRank,
    address: address(env, 'MASTER_ADDR') ?? thisMachine,
    port: taken ? port('MASTER_PORT', defaultPort, 65534) + 1 : port('MASTER_PORT', defaultPort),
  }
}

function fromOpenMpi(env: Environment): RankPlace {
  const { number, port } = reader(env, 'Open MPI')
  const rank = number('OMPI_COMM_WORLD_RANK')
  const size = number('OMPI_COMM_WORLD_SIZE', { least: 1 })
  const master = address(env, 'MASTER_ADDR')
  if (master === undefined && number('OMPI_COMM_WORLD_LOCAL_SIZE', { fallback: size }) < size) {
    throw refusal(
      'MASTER_ADDR is missing, and mpirun starts ranks on several machines, which do not know where rank 0 is',
      'add -x MASTER_ADDR=HOST, the first host of the list',
    )
  }
  return {
    kind: 'rank',
    launcher: 'Open MPI',
    rank,
    size,
    localRank: number('OMPI_COMM_WORLD_LOCAL_RANK', { fallback: rank }),
    address: master ?? thisMachine,
    port: port('MASTER_PORT', defaultPort),
  }
}

/** An interactive shell has the variables too. */
const isInteractive = ({ SLURM_JOB_NAME: name }: Environment) => name === 'bash' || name === 'interactive'

/** Inside a Slurm job, MPICH's mpiexec has one task per machine, which starts the ranks and is not a rank itself. */
function isProxyOfMpich({ PMI_RANK, PMI_SIZE, SLURM_PROCID, SLURM_NTASKS }: Environment): boolean {
  return PMI_RANK !== undefined && PMI_SIZE !== undefined && (PMI_RANK !== SLURM_PROCID || PMI_SIZE !== SLURM_NTASKS)
}

function fromSlurm(env: Environment): RankPlace {
  if (env.SLURM_NTASKS === undefined) {
    throw refusal(
      `SLURM_PROCID is ${env.SLURM_PROCID} and SLURM_NTASKS is missing`,
      'start the ranks with srun --ntasks N, or unset SLURM_PROCID to train in one process',
    )
  }
  const { number, port } = reader(env, 'Slurm')
  const rank = number('SLURM_PROCID')
  return {
    kind: 'rank',
    launcher: 'Slurm',
    rank,
    size: number('SLURM_NTASKS', { least: 1 }),
    localRank: number('SLURM_LOCALID'),
    address: address(env, 'MASTER_ADDR') ?? slurmHost(env) ?? thisMachine,
    // Jobs of the same user may share a machine.
    port: port('MASTER_PORT', 20000 + (number('SLURM_JOB_ID', { fallback: 0 }) % 10000)),
  }
}

function slurmHost(env: Environment): string | undefined {
  const nodes = env.SLURM_JOB_NODELIST ?? env.SLURM_NODELIST
  return nodes === undefined ? undefined : firstHost(nodes)
}

/** The first host of a list such as `node[07-09,12],login1`. */
export function firstHost(nodes: string): string {
  const [, prefix, ranges, suffix] = /^([^[,]*)(?:\[([^\]]*)\])?([^,]*)/.exec(nodes) as RegExpExecArray
  const first = ranges === undefined ? '' : ranges.split(/[,-]/)[0]
  return prefix + first + suffix
}

/** MPICH, Intel MPI, and MVAPICH: their mpiexec does not give the address of rank 0. */
function fromMpich(env: Environment): RankPlace {
  const { number, port } = reader(env, 'MPICH')
  const rank = number('PMI_RANK')
  const size = number('PMI_SIZE', { least: 1 })
  const localRank = ['MPI_LOCALRANKID', 'MV2_COMM_WORLD_LOCAL_RANK', 'PMI_LOCAL_RANK'].find(
    (name) => env[name] !== undefined,
  )
  return {
    kind: 'rank',
    launcher: 'MPICH',
    rank,
    size,
    localRank: localRank === undefined ? rank : number(localRank),
    address: masterOf(env, size, `PMI_RANK is ${rank} of ${size}`, '-genv MASTER_ADDR HOST') ?? thisMachine,
    port: port('MASTER_PORT', defaultPort),
  }
}

/** PMIx sets a rank's number but not the number of ranks. */
function fromPmix(env: Environment): RankPlace {
  const { number, port } = reader(env, 'PMIx')
  const rank = number('PMIX_RANK')
  if (env.WORLD_SIZE === undefined) {
    throw refusal(
      `PMIX_RANK is ${rank} and WORLD_SIZE is missing`,
      'set WORLD_SIZE to the number of ranks and MASTER_ADDR to the machine of rank 0, or unset PMIX_RANK to train in one process',
    )
  }
  const size = number('WORLD_SIZE', { least: 1 })
  return {
    kind: 'rank',
    launcher: 'PMIx',
    rank,
    size,
    localRank: number('LOCAL_RANK', { fallback: rank }),
    address: masterOf(env, size, `PMIX_RANK is ${rank} of ${size}`, '-x MASTER_ADDR=HOST') ?? thisMachine,
    port: port('MASTER_PORT', defaultPort),
  }
}

/** The address of rank 0, for a launcher that does not say whether all ranks are on one machine. */
function masterOf(env: Environment, size: number, found: string, flag: string): string | undefined {
  const master = address(env, 'MASTER_ADDR')
  if (master === undefined && size > 1) {
    throw refusal(
      `${found} and MASTER_ADDR is missing`,
      `add ${flag} to mpiexec with the machine of rank 0 (127.0.0.1 where all ranks are on one)`,
    )
  }
  return master
}

function fromKubeflow(env: Environment): NodePlace {
  const { number, port } = reader(env, 'Kubeflow')
  const perNode = env.PET_NPROC_PER_NODE
  const nodes = number('PET_NNODES', { least: 1 })
  const nodeRank = number('PET_NODE_RANK', { fallback: 0 })
  if (nodeRank >= nodes) {
    throw refusal(
      `PET_NODE_RANK is ${nodeRank} and PET_NNODES is ${nodes}`,
      `set PET_NODE_RANK to a number from 0 to ${nodes - 1}`,
    )
  }
  return {
    kind: 'node',
    launcher: 'Kubeflow',
    nodes,
    nodeRank,
    ranksPerNode:
      perNode === undefined || /^(auto|gpu|cpu)$/.test(perNode)
        ? undefined
        : number('PET_NPROC_PER_NODE', { least: 1 }),
    address: address(env, 'PET_MASTER_ADDR') ?? thisMachine,
    port: port('PET_MASTER_PORT', defaultPort),
  }
}
