// A plugin of typedoc for `npm run docs:api`. Recipe keys and trainer options get the descriptions that --help shows:
// lib/train/recipe-schema.ts has them as data, which TypeScript cannot see. The members of an anonymous type are
// described with the type, and need no docstring.
import { createRequire } from 'node:module'
import path from 'node:path'
import { root } from './toolchain.mjs'

const require = createRequire(import.meta.url)
const { modelKeys, recipeKeys, schemaOf } = require(path.join(root, 'dist', 'train', 'recipe-schema.js'))
// typedoc is not a dependency of this package; it runs this plugin.
const { Comment, Converter, ReflectionKind } = await import(createRequire(process.argv[1]).resolve('typedoc'))

const camelCase = (key) => key.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())

function describe(key) {
  const schema = schemaOf(key)
  const fallback = schema.safeParse(undefined).data
  return `${schema.description}.${fallback === undefined ? '' : ` ${JSON.stringify(fallback)} when left out.`}`
}

const recipe = new Map(recipeKeys.flatMap((key) => [key, camelCase(key)].map((name) => [name, describe(key)])))
const model = new Map(modelKeys.map((key) => [key, describe(`model.${key}`)]))

/** The text for a member without a docstring. */
function textOf(reflection) {
  const owner = reflection.parent
  if (owner?.name === 'Recipe' || owner?.name === 'TrainerOptions') return recipe.get(reflection.name)
  if (owner?.name !== '__type') return undefined
  const holder = owner.parent
  return (holder?.name === 'model' && model.get(reflection.name)) || `See \`${holder?.getFullName() ?? ''}\`.`
}

export function load(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const reflection of project.getReflectionsByKind(ReflectionKind.Property | ReflectionKind.CallSignature)) {
      if (reflection.comment) continue
      const text = textOf(reflection.kind === ReflectionKind.CallSignature ? reflection.parent : reflection)
      if (text) reflection.comment = new Comment([{ kind: 'text', text }])
    }
  })
}
