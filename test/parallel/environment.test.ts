import { describe, expect, it } from 'vitest'
import { firstHost, placeFromEnvironment } from '../../lib/parallel/environment.js'

// As the programs set them, with what else is in the environment left out.
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
  it('of torchrun names rank, size and place', () => {
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

  it('of torchrun, where it holds the port itself, has the next one', () => {
    expect(placeFromEnvironment({ ...torchrun, TORCHELASTIC_USE_AGENT_STORE: 'True' })).toMatchObject({ port: 29401 })
    expect(placeFromEnvironment({ ...torchrun, TORCHELASTIC_USE_AGENT_STORE: 'False' })).toMatchObject({ port: 29400 })
  })

  it('of mpirun on one machine is enough', () => {
    expect(placeFromEnvironment(openMpi)).toMatchObject({
      launcher: 'Open MPI',
      rank: 3,
      size: 4,
      localRank: 3,
      address: '127.0.0.1',
    })
  })

  it('of mpirun on several machines needs the address of the first', () => {
    const several = { ...openMpi, OMPI_COMM_WORLD_LOCAL_SIZE: '2' }
    expect(() => placeFromEnvironment(several)).toThrow(/-x MASTER_ADDR=HOST/)
    expect(placeFromEnvironment({ ...several, MASTER_ADDR: 'node-a' })).toMatchObject({ address: 'node-a' })
  })

  it('of srun has the address in its list of nodes, and a port of its own for each job', () => {
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

  it.each(['bash', 'interactive'])('of a Slurm shell called %s is a person', (name) => {
    expect(placeFromEnvironment({ ...slurm, SLURM_JOB_NAME: name })).toBeUndefined()
  })

  it('of Kubeflow names the machine, whose ranks are still to be started', () => {
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

  it('of the launcher within a job goes before that of the job', () => {
    expect(placeFromEnvironment({ ...slurm, ...openMpi, ...torchrun })).toMatchObject({ launcher: 'torchrun' })
    expect(placeFromEnvironment({ ...slurm, ...openMpi })).toMatchObject({ launcher: 'Open MPI' })
  })

  it('of a shell says nothing', () => {
    expect(placeFromEnvironment({ HOME: '/root', RANK: '1' })).toBeUndefined()
  })

  it('with a variable that is missing or no number is refused by its name', () => {
    expect(() => placeFromEnvironment({ ...torchrun, WORLD_SIZE: 'eight' })).toThrow(/WORLD_SIZE is "eight"/)
    expect(() => placeFromEnvironment({ ...slurm, SLURM_LOCALID: undefined })).toThrow(/SLURM_LOCALID is missing/)
  })
})

describe('the first host of a Slurm list', () => {
  it.each([
    ['node1', 'node1'],
    ['node[07-09,12],login1', 'node07'],
    ['a1,b2', 'a1'],
    ['rack3-[4,6]-ib', 'rack3-4-ib'],
  ])('%s is %s', (list, host) => {
    expect(firstHost(list)).toBe(host)
  })
})
