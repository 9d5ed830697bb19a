import { describe, expect, it } from 'vitest'
import { firstHost, placeFromEnvironment } from '../../lib/parallel/environment.js'

// As the launchers set them, without unrelated environment variables.
const torchrun = {
  RANK: '5',
  WORLD_SIZE: '8',
  LOCAL_RANK: '1',
  LOCAL_WORLD_SIZE: '4',
  GROUP_RANK: '1',
  MASTER_ADDR: 'node-a',
  MASTER_PORT: '29400',
}
const openMpi = {
  OMPI_COMM_WORLD_RANK: '3',
  OMPI_COMM_WORLD_SIZE: '4',
  OMPI_COMM_WORLD_LOCAL_RANK: '3',
  OMPI_COMM_WORLD_LOCAL_SIZE: '4',
  OMPI_UNIVERSE_SIZE: '4',
}
const slurm = {
  SLURM_PROCID: '9',
  SLURM_NTASKS: '16',
  SLURM_LOCALID: '1',
  SLURM_NODEID: '1',
  SLURM_JOB_ID: '4217365',
  SLURM_JOB_NAME: 'alpaca',
  SLURM_JOB_NODELIST: 'gpu[017-018]',
}
const kubeflow = {
  PET_NNODES: '2',
  PET_NPROC_PER_NODE: '8',
  PET_NODE_RANK: '1',
  PET_MASTER_ADDR: 'alpaca-node-0-0.alpaca',
  PET_MASTER_PORT: '29400',
}

describe('the environment', () => {
  it("torchrun's environment gives rank, size, and address", () => {
    expect(placeFromEnvironment(torchrun)).toEqual({
      kind: 'rank',
      launcher: 'torchrun',
      rank: 5,
      size: 8,
      localRank: 1,
      address: 'node-a',
      port: 29400,
    })
  })

  it("torchrun's environment gives the next port if torchrun holds the port itself", () => {
    expect(placeFromEnvironment({ ...torchrun, TORCHELASTIC_USE_AGENT_STORE: 'True' })).toMatchObject({ port: 29401 })
    expect(placeFromEnvironment({ ...torchrun, TORCHELASTIC_USE_AGENT_STORE: 'False' })).toMatchObject({ port: 29400 })
  })

  it("mpirun's environment is sufficient on one machine", () => {
    expect(placeFromEnvironment(openMpi)).toMatchObject({
      launcher: 'Open MPI',
      rank: 3,
      size: 4,
      localRank: 3,
      address: '127.0.0.1',
    })
  })

  it("mpirun's environment on several machines needs the address of the first", () => {
    const several = { ...openMpi, OMPI_COMM_WORLD_LOCAL_SIZE: '2' }
    expect(() => placeFromEnvironment(several)).toThrow(/-x MASTER_ADDR=HOST/)
    expect(placeFromEnvironment({ ...several, MASTER_ADDR: 'node-a' })).toMatchObject({ address: 'node-a' })
  })

  it("srun's environment has the address in its node list, and a separate port for each job", () => {
    expect(placeFromEnvironment(slurm)).toEqual({
      kind: 'rank',
      launcher: 'Slurm',
      rank: 9,
      size: 16,
      localRank: 1,
      address: 'gpu017',
      port: 27365,
    })
  })

  it.each(['bash', 'interactive'])('a Slurm shell named %s counts as interactive', (name) => {
    expect(placeFromEnvironment({ ...slurm, SLURM_JOB_NAME: name })).toBeUndefined()
  })

  it("Kubeflow's environment identifies the machine, whose ranks have yet to be started", () => {
    expect(placeFromEnvironment(kubeflow)).toEqual({
      kind: 'node',
      launcher: 'Kubeflow',
      nodes: 2,
      nodeRank: 1,
      ranksPerNode: 8,
      address: 'alpaca-node-0-0.alpaca',
      port: 29400,
    })
    expect(placeFromEnvironment({ ...kubeflow, PET_NPROC_PER_NODE: 'auto' })).toMatchObject({ ranksPerNode: undefined })
  })

  it("our launcher's environment takes precedence over that of the job around it", () => {
    expect(placeFromEnvironment({ ...slurm, ...openMpi, ...torchrun })).toMatchObject({ launcher: 'torchrun' })
    expect(placeFromEnvironment({ ...slurm, ...openMpi })).toMatchObject({ launcher: 'Open MPI' })
  })

  it("an interactive shell's environment gives no ranks", () => {
    expect(
      placeFromEnvironment({ HOME: '/root', MASTER_PORT: 'x', LOCAL_RANK: '1', PMIX_NAMESPACE: 'a' }),
    ).toBeUndefined()
  })

  it("MPICH's environment is sufficient together with the address of rank 0", () => {
    const mpich = { PMI_RANK: '3', PMI_SIZE: '4', MPI_LOCALRANKID: '1', MASTER_ADDR: 'node-a' }
    const place = { kind: 'rank', launcher: 'MPICH', rank: 3, size: 4, localRank: 1, address: 'node-a', port: 29500 }
    expect(placeFromEnvironment(mpich)).toEqual(place)
    // Within a Slurm job, MPICH's proxies are Slurm's tasks.
    expect(placeFromEnvironment({ ...slurm, SLURM_NTASKS: '2', SLURM_PROCID: '1', ...mpich })).toEqual(place)
    expect(placeFromEnvironment({ ...slurm, PMI_RANK: '9', PMI_SIZE: '16' })).toMatchObject({ launcher: 'Slurm' })
    expect(placeFromEnvironment({ PMI_RANK: '0', PMI_SIZE: '1' })).toMatchObject({ rank: 0, size: 1 })
  })

  it("PMIx's environment is sufficient together with the number of ranks and the address of rank 0", () => {
    const pmix = { PMIX_RANK: '1', WORLD_SIZE: '2', MASTER_ADDR: 'node-a' }
    expect(placeFromEnvironment(pmix)).toMatchObject({ launcher: 'PMIx', rank: 1, size: 2, address: 'node-a' })
    expect(placeFromEnvironment({ ...openMpi, PMIX_RANK: '3' })).toMatchObject({ launcher: 'Open MPI' })
  })

  it('a single variable of torchrun must agree with the launcher that sets both', () => {
    expect(placeFromEnvironment({ ...slurm, WORLD_SIZE: '16' })).toMatchObject({ launcher: 'Slurm', rank: 9, size: 16 })
    expect(() => placeFromEnvironment({ ...slurm, WORLD_SIZE: '8' })).toThrow(
      'WORLD_SIZE is 8 and SLURM_NTASKS, which Slurm has set, is 16: unset WORLD_SIZE',
    )
    expect(() => placeFromEnvironment({ ...openMpi, RANK: '0' })).toThrow(/RANK is 0 and OMPI_COMM_WORLD_RANK/)
  })

  it('an empty environment variable counts as unset', () => {
    expect(placeFromEnvironment({ RANK: '', WORLD_SIZE: ' ' })).toBeUndefined()
    expect(
      placeFromEnvironment({ ...torchrun, LOCAL_RANK: '', MASTER_ADDR: '', MASTER_PORT: '', SLURM_PROCID: '' }),
    ).toMatchObject({ localRank: 5, address: '127.0.0.1', port: 29500 })
    expect(() => placeFromEnvironment({ ...torchrun, RANK: '' })).toThrow(/^RANK is missing/)
  })

  it.each([
    ['::1', '::1'],
    ['[::1]', '::1'],
    ['[fd00::2]', 'fd00::2'],
    ['fe80::1%eth0', 'fe80::1%eth0'],
    ['node-a.cluster_1.local.', 'node-a.cluster_1.local.'],
    [' 10.0.0.1 ', '10.0.0.1'],
  ])('MASTER_ADDR %s gives the address %s', (given, address) => {
    expect(placeFromEnvironment({ ...torchrun, MASTER_ADDR: given })).toMatchObject({ address })
  })

  it.each([
    ['WORLD_SIZE', { RANK: '0' }, 'unset RANK'],
    ['RANK', { WORLD_SIZE: '2', LOCAL_RANK: '0' }, 'unset WORLD_SIZE'],
    ['RANK', { ...torchrun, RANK: '8' }, 'WORLD_SIZE is 8: set RANK to a number from 0 to 7'],
    ['RANK', { ...torchrun, RANK: '-1' }, 'least 0'],
    ['RANK', { ...torchrun, RANK: '1.5' }, 'whole number'],
    ['WORLD_SIZE', { ...torchrun, WORLD_SIZE: '0' }, 'least 1'],
    ['WORLD_SIZE', { ...torchrun, WORLD_SIZE: 'eight' }, '"eight"'],
    ['WORLD_SIZE', { ...torchrun, WORLD_SIZE: '9'.repeat(30) }, 'whole number'],
    ['LOCAL_RANK', { ...torchrun, LOCAL_RANK: '-1' }, '"-1"'],
    ['LOCAL_RANK', { ...torchrun, LOCAL_RANK: '4' }, 'from 0 to 3'],
    ['MASTER_PORT', { ...torchrun, MASTER_PORT: '0' }, 'a port from 1 to 65535'],
    ['MASTER_PORT', { ...torchrun, MASTER_PORT: '70000' }, 'a port from 1 to 65535'],
    ['MASTER_PORT', { ...torchrun, MASTER_PORT: 'tcp' }, 'a port from 1 to 65535'],
    ['MASTER_PORT', { ...torchrun, MASTER_PORT: '65535', TORCHELASTIC_USE_AGENT_STORE: 'true' }, '1 to 65534'],
    ['MASTER_ADDR', { ...torchrun, MASTER_ADDR: 'tcp://node-a:29500' }, 'MASTER_PORT'],
    ['MASTER_ADDR', { ...torchrun, MASTER_ADDR: 'node-a:29500' }, 'MASTER_PORT'],
    ['MASTER_ADDR', { ...torchrun, MASTER_ADDR: '[::1]:29500' }, 'MASTER_PORT'],
    ['MASTER_ADDR', { ...torchrun, MASTER_ADDR: '[node-a]' }, 'alone'],
    ['MASTER_ADDR', { ...torchrun, MASTER_ADDR: 'node a' }, 'alone'],
    ['OMPI_COMM_WORLD_SIZE', { OMPI_COMM_WORLD_RANK: '0' }, 'unset OMPI_COMM_WORLD_RANK'],
    ['OMPI_COMM_WORLD_RANK', { OMPI_COMM_WORLD_SIZE: '2' }, 'unset OMPI_COMM_WORLD_SIZE'],
    ['OMPI_COMM_WORLD_RANK', { ...openMpi, OMPI_COMM_WORLD_RANK: '4' }, 'from 0 to 3'],
    ['SLURM_NTASKS', { SLURM_PROCID: '0', SLURM_JOB_ID: '7' }, 'srun --ntasks N'],
    ['SLURM_LOCALID', { ...slurm, SLURM_LOCALID: undefined }, 'is missing'],
    ['SLURM_PROCID', { ...slurm, SLURM_PROCID: '16' }, 'from 0 to 15'],
    ['MASTER_ADDR', { PMI_RANK: '0', PMI_SIZE: '2' }, '-genv MASTER_ADDR HOST'],
    ['PMI_SIZE', { PMI_RANK: '0' }, 'unset PMI_RANK'],
    ['PMI_RANK', { PMI_SIZE: '2' }, 'unset PMI_SIZE'],
    ['PMI_RANK', { PMI_RANK: '2', PMI_SIZE: '2', MASTER_ADDR: 'a' }, 'from 0 to 1'],
    ['PMIX_RANK', { PMIX_RANK: '0' }, 'unset PMIX_RANK'],
    ['MASTER_ADDR', { PMIX_RANK: '0', WORLD_SIZE: '2' }, '-x MASTER_ADDR=HOST'],
    ['PMIX_RANK', { PMIX_RANK: '2', WORLD_SIZE: '2', MASTER_ADDR: 'a' }, 'from 0 to 1'],
    ['PET_NODE_RANK', { ...kubeflow, PET_NODE_RANK: '2' }, 'from 0 to 1'],
    ['PET_NNODES', { ...kubeflow, PET_NNODES: '0' }, 'least 1'],
    ['MASTER_ADDR', { ...kubeflow, PET_MASTER_ADDR: 'a:1' }, 'alone'],
  ])('an invalid environment is rejected with the name of %s: %o', (name, env, advice) => {
    const refused = (() => {
      try {
        return placeFromEnvironment(env)
      } catch (error) {
        return error
      }
    })()
    expect(refused).toMatchObject({ code: 'INVALID_ENVIRONMENT', message: expect.stringContaining(name) })
    expect((refused as Error).message).toContain(advice)
  })
})

describe('the first host of a Slurm list', () => {
  it.each([
    ['node1', 'node1'],
    ['node[07-09,12],login1', 'node07'],
    ['a1,b2', 'a1'],
    ['rack3-[4,6]-ib', 'rack3-4-ib'],
  ])('the first host of %s is %s', (list, host) => {
    expect(firstHost(list)).toBe(host)
  })
})
