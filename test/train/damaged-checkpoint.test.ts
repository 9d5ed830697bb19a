import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { LlamaForCausalLM } from '../../lib/causal-lm.js'
import { openDevice } from '../../lib/device.js'
import { LlamaTokenizer } from '../../lib/tokenizer/tokenizer.js'
import { loadCheckpoint, resolveResume, saveCheckpoint } from '../../lib/train/checkpoint.js'
import { AdamW } from '../../lib/train/optimizer.js'
import { resolveRecipe } from '../../lib/train/recipe.js'
import { fixtures } from '../support/fixtures.js'
import { isLong } from '../support/long.js'

const savePath = mkdtempSync(path.join(tmpdir(), 'damaged-'))
afterAll(() => rmSync(savePath, { recursive: true, force: true }))
const recipe = resolveRecipe([{ values: { save_path: savePath, resume: 'auto' }, where: () => 'test' }])
const checkpoint = (step: number) => path.join(savePath, `checkpoint-${step}`)

/** A model of a few thousand parameters with its optimizer, in the form that a checkpoint needs. */
async function state(hiddenSize: number, step: number) {
  const model = LlamaForCausalLM.fromConfig(
    {
      vocab_size: 16,
      hidden_size: hiddenSize,
      intermediate_size: 8,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      max_position_embeddings: 32,
      bos_token_id: 1,
      eos_token_id: 2,
    },
    { device: openDevice('cpu'), dtype: 'float32' },
  )
  const { parameters } = model
  const optimizer = new AdamW(parameters, { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0 })
  const tokenizer = await LlamaTokenizer.fromPretrained(path.join(fixtures, 'd100'))
  return { parameters, optimizer, tokenizer, recipe, step, dataFingerprint: 'data' }
}

beforeAll(async () => {
  for (const step of [1, 2]) await saveCheckpoint(savePath, await state(8, step), { keepLast: 2 })
})

/** The lengths at which a file is cut: every length up to `first`, and `between` lengths after that. */
function lengths(size: number, first: number, between: number): number[] {
  if (isLong) return Array.from({ length: size }, (_, i) => i)
  const stride = Math.max(1, Math.floor((size - first) / between))
  return Array.from({ length: size }, (_, i) => i).filter(
    (i) => i < first || (i - first) % stride === 0 || i === size - 1,
  )
}

describe('a checkpoint', () => {
  it.each([
    { file: 'rank-00000-of-00001.safetensors', first: 300, between: 300 },
    { file: 'manifest.json', first: 100, between: 300 },
  ])(
    '--resume auto skips a checkpoint whose $file is cut short at any byte, for the one before',
    async ({ file, first, between }) => {
      const whole = path.join(checkpoint(2), file)
      const bytes = readFileSync(whole)
      expect(await resolveResume(recipe)).toBe(checkpoint(2))
      try {
        for (const length of lengths(bytes.length, first, between).reverse()) {
          truncateSync(whole, length)
          expect(await resolveResume(recipe), `${length} of ${bytes.length} bytes`).toBe(checkpoint(1))
        }
        rmSync(whole)
        expect(await resolveResume(recipe), 'none of it').toBe(checkpoint(1))
      } finally {
        writeFileSync(whole, bytes)
      }
    },
  )

  it('loadCheckpoint rejects a checkpoint of another model', async () => {
    await expect(loadCheckpoint(checkpoint(2), await state(16, 0))).rejects.toThrow(
      /checkpoint-2 cannot be resumed: its model has other shapes/,
    )
    expect(await loadCheckpoint(checkpoint(2), await state(8, 0))).toBe(2)
  })
})
