import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest'
import { errorLine, exitCodeOf } from '../../lib/cli/failure.js'
import { runProgram } from '../../lib/cli/program.js'
import { gpus } from '../../lib/plan/hardware.js'
import type { Plan } from '../../lib/plan/plan.js'
import { fixtures } from '../support/fixtures.js'

const directory = mkdtempSync(path.join(tmpdir(), 'plan-'))
afterAll(() => rmSync(directory, { recursive: true }))
afterEach(() => {
  vi.restoreAllMocks()
  process.exitCode = undefined
})

/** The output of `plan`, and its exit code. */
async function plan(...flags: string[]): Promise<{ text: string; code: typeof process.exitCode }> {
  let text = ''
  vi.spyOn(console, 'log').mockImplementation((line: string) => {
    text += `${line}\n`
  })
  await runProgram(['plan', ...flags])
  return { text, code: process.exitCode }
}

async function planned(...flags: string[]): Promise<Plan & { data: string; model: string }> {
  return JSON.parse((await plan(...flags, '--json')).text)
}

async function failure(...flags: string[]): Promise<{ line: string; code: number }> {
  const error = await runProgram(['plan', ...flags]).catch((error: unknown) => error)
  return { line: errorLine(error), code: exitCodeOf(error) }
}

function file(name: string, json: object): string {
  const where = path.join(directory, name)
  writeFileSync(where, JSON.stringify(json))
  return where
}

describe('plan', () => {
  it('plan shows the cost on 64 GPUs of a recipe whose model is not present', async () => {
    const { text, code } = await plan('--recipe', 'openalpaca-7b', '--gpus', '64', '--nodes', '8')
    expect(code).toBe(0)
    expect(text).toMatch(/^open_llama_7b, 6\.74B parameters, bfloat16, stage 3, 64 ranks on 8 machines\n/)
    for (const kind of ['weights', 'float32 masters', 'moments', 'gradients', 'gathered weights', 'activations'])
      expect(text).toMatch(new RegExp(`^ {2}${kind} +[\\d.]+ [MG]B$`, 'm'))
    expect(text).toMatch(/total +[\d.]+ GB of 85\.0 GB: fits/)
    expect(text).toMatch(/hidden +\d.* \([\d.]+ %\)/)
    expect(text).toMatch(/The run: 703 steps/)
  })

  it('plan exits with 1 if the run does not fit, and suggests settings that do', async () => {
    const { text, code } = await plan('--recipe', 'openalpaca-7b', '--gpus', '1')
    expect(code).toBe(1)
    expect(text).toMatch(
      /does not fit\n +--offload optimizer would fit, using [\d.]+ GB\n +--gpus 2 would fit, using [\d.]+ GB\n/,
    )
    expect(text).not.toMatch(/communication|stage/)
  })

  it('plan prefers rates of flags to those of a file, and these to the assumed ones', async () => {
    const measured = file('measured.json', { figures: { hardware: { matmul_flops: 300e12, memory: 50e9 } } })
    const flags = ['--recipe', 'openalpaca-3b', '--gpus', '8', '--measured', measured, '--gpu_memory', '40']
    const { hardware } = (await planned(...flags)) as unknown as { hardware: object }
    expect(hardware).toEqual({ ...gpus.h100, matmul_flops: 300e12, memory: 40e9 })
  })

  it('plan counts the tokens of the data if there is a tokenizer, and otherwise estimates them', async () => {
    const rows = Array.from({ length: 40 }, (_, i) => ({ instruction: `Say ${i}.`, input: '', output: `It is ${i}.` }))
    const data = ['--data_path', file('data.json', rows), '--max_length', '256', '--batch_size', '8', '--gpus', '2']
    const model = path.join(fixtures, 'd100')
    const counted = await planned('--model_path', model, ...data)
    expect(counted).toMatchObject({ model: 'd100', data: '40 instances', run: { steps: 15 } })
    const estimated = await planned('--config', 'open_llama_3b', ...data, '--instances', '20')
    expect(estimated.data).toBe('20 instances, assuming four characters per token (no tokenizer found)')
    expect(estimated.run.steps).toBe(7)
    const length = 5 * estimated.batch.instances
    expect(estimated.batch.tokens).toBeGreaterThan(length)
  })
})

describe('a plan without a recipe', () => {
  it('plan without a recipe uses the quickstart, with the vocabulary of its tokenizer', async () => {
    const { text, code } = await plan('--instances', '3200')
    expect(code).toBe(0)
    expect(text).toMatch(/^quickstart, 2\.02M parameters, bfloat16, one process\n/)
    expect(text).toMatch(/The run: 84 steps/)
  })

  it('plan without a recipe uses the data of OpenAlpaca if --config names the model', async () => {
    const { data, batch } = await planned('--config', 'open_llama_3b', '--gpus', '8')
    expect(data).toMatch(/^15001 instances as long as those of databricks-dolly-15k/)
    expect(batch.instances).toBe(64)
    const short = file('config.json', {
      ...JSON.parse(readFileSync(path.join(fixtures, 'd100/config.json'), 'utf8')),
      max_position_embeddings: 200,
    })
    expect((await planned('--config', short, '--gpus', '2')).batch.max_tokens).toBe(4096)
    expect((await failure('--config', short, '--gpus', '2', '--max_length', '201')).line).toMatch(
      /max_length 201 is longer than the model's context of 200/,
    )
  })
})

describe('a plan that fails', () => {
  it('plan reports why it fails', async () => {
    const seven = ['--recipe', 'openalpaca-7b']
    expect(await failure(...seven, '--gpus', '10', '--nodes', '4')).toEqual({
      line: 'error: 10 ranks cannot be divided evenly among 4 machines',
      code: 2,
    })
    expect((await failure(...seven, '--measured', file('typo.json', { matmul_flop: 1 }))).line).toMatch(
      /typo\.json: Unrecognized key: "matmul_flop"; it may have name, memory, /,
    )
    expect((await failure(...seven, '--measured', path.join(directory, 'none.json'))).line).toMatch(
      /none\.json cannot be read as JSON: ENOENT/,
    )
    expect((await failure(...seven, '--ranks', '2')).line).toMatch(
      /^error: a plan for the CPU needs rates measured on this machine: run npm run bench -- --only ranks .* --gpus N$/,
    )
    const { op_seconds, link_seconds, ...gappy } = { ...gpus.h100 }
    expect((await failure(...seven, '--ranks', '2', '--measured', file('gappy.json', gappy))).line).toMatch(
      /this machine, got none for op_seconds, link_seconds: run/,
    )
    const noTokenizer = ['--tokenizer_path', path.join(directory, 'none')]
    expect((await failure('--model.hidden_size', '64', '--gpus', '2', ...noTokenizer)).line).toMatch(
      /add --model\.vocab_size N, or --tokenizer_path DIR$/,
    )
    expect((await failure(...seven, '--link_bandwidth', '0')).line).toMatch(
      /'0' is invalid\. Expected a number above 0/,
    )
  })
})
