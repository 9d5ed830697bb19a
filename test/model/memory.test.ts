import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { parameterCount } from '../../lib/model/layout.js'

const root = mkdtempSync(path.join(tmpdir(), 'memory-'))
afterAll(() => rmSync(root, { recursive: true }))

/** Loads a model in a separate process, and prints the growth of its peak resident memory in bytes. */
const loading = `
  const { readFileSync } = require('node:fs')
  const { LlamaForCausalLM } = require(process.argv[1])
  // Not resourceUsage().maxRSS, which begins with the parent's.
  const peak = () => 1024 * /VmHWM:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]
  const before = peak()
  LlamaForCausalLM.fromPretrained(process.argv[2], { device: 'cpu', dtype: 'bfloat16' }).then((model) => {
    console.log(peak() - before)
    model.dispose()
  })`

it.each(['bfloat16', 'float32'] as const)(
  'loading a model stored in shards of %s takes the memory of the model and one shard',
  { timeout: 60_000 },
  async (dtype) => {
    using model = LlamaForCausalLM.fromConfig(
      { vocab_size: 8000, hidden_size: 768, intermediate_size: 2048, num_hidden_layers: 7, num_attention_heads: 12 },
      { device: 'cpu', dtype: 'bfloat16' },
    )
    const bytes = 2 * parameterCount(model.config)
    const directory = path.join(root, dtype)
    await model.savePretrained(directory, { maxShardSize: '80MB', dtype })
    expect(readdirSync(directory).filter((name) => name.endsWith('.safetensors')).length).toBeGreaterThan(1)
    const program = path.join(__dirname, '..', '..', 'dist', 'index.js')
    const grown = Number(execFileSync(process.execPath, ['-e', loading, program, directory], { encoding: 'utf8' }))
    expect(grown).toBeGreaterThan(bytes)
    expect(grown).toBeLessThan(bytes + 80e6)
  },
)
