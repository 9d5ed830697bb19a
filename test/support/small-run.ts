import path from 'node:path'
import { fixtures } from './fixtures.js'

/** The command line's program. */
export const main = path.join(__dirname, '..', '..', 'dist', 'cli', 'main.js')

/**
 * Arguments of Node.js for a training run of one second: 20 instances, two held out, four per step, in float32 on the
 * CPU.
 *
 * @param flags of `train`, which override these defaults
 */
export function smallRun(flags: Record<string, unknown> & { save_path: string }): string[] {
  const all = {
    model_path: path.join(fixtures, 'd100'),
    data_path: path.join(fixtures, 'instructions.json'),
    device: 'cpu',
    dtype: 'float32',
    max_length: 224,
    batch_size: 4,
    learning_rate: 1e-3,
    validation_size: 2,
    validation_every: 7,
    checkpoint_every: 2,
    keep_checkpoints: 'all',
    log_every: 1,
    ...flags,
  }
  return [main, 'train', ...Object.entries(all).flatMap(([name, value]) => [`--${name}`, String(value)])]
}
