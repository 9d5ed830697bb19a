import { isRotaryBuffer } from '../formats/names.js'
import { type ConfigJson, parseConfig } from '../model/config.js'
import { layoutOf } from '../model/layout.js'

/**
 * What of these tensors does not belong to the model that a config.json describes: one sentence each, none for a fit.
 * @throws ConfigError for a config that cannot be understood, or is of another architecture
 */
export function misfits(
  json: ConfigJson,
  tensors: Iterable<{ readonly name: string; readonly shape: readonly number[] }>,
  where: string,
): string[] {
  const config = parseConfig(json, where)
  const shapes = new Map([...tensors].map(({ name, shape }) => [name, shape]))
  const wanted = new Map(layoutOf(config).units.flatMap((unit) => unit.parameters.map((one) => [one.name, one.shape])))
  const problems: string[] = []
  for (const [name, shape] of wanted) {
    const actual = shapes.get(name)
    if (!actual) problems.push(`${name} is missing`)
    else if (actual.join() !== shape.join()) {
      problems.push(`${name} has shape [${actual.join(', ')}] instead of [${shape.join(', ')}]`)
    }
  }
  for (const name of shapes.keys()) {
    const tied = config.tieWordEmbeddings && name === 'lm_head.weight'
    if (!wanted.has(name) && !tied && !isRotaryBuffer(name)) problems.push(`unexpected tensor ${name}`)
  }
  return problems
}
