/** Performance of machines: the rates for a plan, estimated from data sheets or measured. */
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { RecipeError } from '../errors.js'
import { parseJson } from '../json.js'
import type { ModelDType } from '../model/parameters.js'
import type { CollectiveName, Costs } from './dry-device.js'
import { workOf } from './op-costs.js'

const positive = z.number().positive()
const seconds = z.number().min(0)

const schema = z.strictObject({
  name: z.string(),
  /** Usable bytes of a GPU, or of a machine, whose ranks share them. */
  memory: positive,
  /** Bytes of it used for other than our tensors: CUDA's context, NCCL's buffers, workspaces of matrix products. */
  reserved: z.number().min(0),
  /** Operations per second from the data sheet, the base of utilization. */
  peak_flops: positive,
  /** Achieved operations per second of large matrix products in bfloat16. */
  matmul_flops: positive,
  /** The same in float32, for products and attention (products on GPUs do not use TF32). */
  float32_flops: positive,
  /** The same for attention in bfloat16, not counting the masked half. */
  attention_flops: positive,
  /** Memory bytes per second, read plus written. */
  memory_bandwidth: positive,
  /**
   * Bytes per second and direction between a rank and the others of its machine, as collectives achieve it (NCCL:
   * busbw).
   */
  link_bandwidth: positive,
  /** Bytes per second and direction between a machine and the others: all its network cards together. */
  network_bandwidth: positive,
  /** Bytes per second between a GPU and host memory. */
  host_link_bandwidth: positive,
  /** Host memory bytes per second, read plus written by the CPU for all ranks together. */
  host_bandwidth: positive,
  /** Minimum duration of an op, regardless of size. */
  op_seconds: seconds,
  /** Host time per call. */
  call_seconds: seconds,
  /** Minimum duration of a collective, and of each hop of its ring within a machine and between machines. */
  collective_seconds: seconds,
  link_seconds: seconds,
  network_seconds: seconds,
  /** Whether communication uses the cores that compute, and so hides nothing. */
  shared_cores: z.boolean(),
})

export type Hardware = z.output<typeof schema>

const GB = 1e9
const TFLOPS = 1e12

/** Common values; latencies are those of NCCL on such machines. */
const nvidia = {
  reserved: 3 * GB,
  op_seconds: 2e-6,
  call_seconds: 4e-6,
  collective_seconds: 15e-6,
  link_seconds: 1e-6,
  network_seconds: 6e-6,
  shared_cores: false,
}

/**
 * Peak rates and links are from NVIDIA's data sheets of the SXM cards with 80 GB and of the DGX machines (H100: 8 links
 * of 400 Gb/s, A100: 8 of 200 Gb/s). The achieved fractions are assumptions: two thirds of the peak for products in
 * bfloat16, four tenths for attention, nine tenths of memory, eight tenths of links and networks.
 */
export const gpus = {
  h100: {
    ...nvidia,
    name: 'H100 SXM',
    memory: 85 * GB,
    peak_flops: 989 * TFLOPS,
    matmul_flops: 660 * TFLOPS,
    float32_flops: 50 * TFLOPS,
    attention_flops: 400 * TFLOPS,
    memory_bandwidth: 3000 * GB,
    link_bandwidth: 360 * GB,
    network_bandwidth: 320 * GB,
    host_link_bandwidth: 50 * GB,
    host_bandwidth: 200 * GB,
  },
  a100: {
    ...nvidia,
    name: 'A100 SXM',
    memory: 85 * GB,
    peak_flops: 312 * TFLOPS,
    matmul_flops: 220 * TFLOPS,
    float32_flops: 17 * TFLOPS,
    attention_flops: 140 * TFLOPS,
    memory_bandwidth: 1800 * GB,
    link_bandwidth: 230 * GB,
    network_bandwidth: 160 * GB,
    host_link_bandwidth: 20 * GB,
    host_bandwidth: 120 * GB,
  },
} satisfies Record<string, Hardware>

/**
 * Reads measured rates: some of the keys of `Hardware`, or a file written by `npm run bench -- --only ranks`.
 * @throws {RecipeError} for any other file
 */
export function readMeasured(file: string): Partial<Hardware> {
  let json: unknown
  try {
    json = parseJson(readFileSync(file))
  } catch (cause) {
    throw new RecipeError(`--measured ${file} cannot be read as JSON: ${(cause as Error).message}`, { cause })
  }
  const values = (json as { figures?: { hardware?: unknown } } | null)?.figures?.hardware ?? json
  const parsed = schema.partial().safeParse(values)
  if (parsed.success) return parsed.data
  const [{ path, message }] = parsed.error.issues
  throw new RecipeError(
    `--measured ${file}: ${[...path, message].join(': ')}; it may have ${Object.keys(schema.shape).join(', ')}`,
  )
}

/** Up to this many gaps are named; a list of all rates would not help. */
const fewMissing = 3

/**
 * Checks that all rates are given.
 * @throws {RecipeError} for missing rates
 */
export function completeHardware(values: Partial<Hardware>): Hardware {
  const parsed = schema.safeParse(values)
  if (parsed.success) return parsed.data
  const missing = parsed.error.issues.map(({ path }) => path.join('.'))
  const gaps = missing.length <= fewMissing ? `, got none for ${missing.join(', ')}` : ''
  throw new RecipeError(
    `a plan for the CPU needs rates measured on this machine${gaps}: run npm run bench -- --only ranks and add ` +
      '--measured runs/bench/ranks.json, or plan for GPUs with --gpus N',
  )
}

/** Durations of work on connected machines. */
export function costsOf(hardware: Hardware, nodes: number, dtype: ModelDType, ranks: number): Costs {
  const { float32_flops } = hardware
  const rates =
    dtype === 'float32'
      ? { matmul: float32_flops, attention: float32_flops }
      : { matmul: hardware.matmul_flops, attention: hardware.attention_flops }
  const link = nodes > 1 ? Math.min(hardware.link_bandwidth, hardware.network_bandwidth) : hardware.link_bandwidth
  return {
    call: hardware.call_seconds,
    op(name, args, contents) {
      const { bytes, flops, attentionFlops } = workOf(name, args, contents)
      const computing = flops / rates.matmul + attentionFlops / rates.attention
      return hardware.op_seconds + Math.max(computing, bytes / hardware.memory_bandwidth)
    },
    transfer: (bytes) => bytes / hardware.host_link_bandwidth,
    hostOp: (name, args) => (workOf(name, args, () => undefined).bytes * (ranks / nodes)) / hardware.host_bandwidth,
    /** A ring: all but a rank's own part passes each of its links, and reaches the last rank hop by hop. */
    collective(name: CollectiveName, bytes: number, ranks: number) {
      const rounds = name === 'all_reduce' ? 2 : 1
      const hops = (ranks - nodes) * hardware.link_seconds + (nodes > 1 ? nodes : 0) * hardware.network_seconds
      return hardware.collective_seconds + rounds * (hops + (bytes * (ranks - 1)) / ranks / link)
    },
  }
}
