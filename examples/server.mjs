// A small HTTP server that answers instructions, token by token.
//
//   npm install fastify openalpaca-native (in a clone, npm run setup)
//   node examples/server.mjs MODEL_DIRECTORY [PORT]
//   curl -N localhost:3000/answer -H 'content-type: application/json' -d '{ "instruction": "Name three colours." }'
//
// Answers to several clients share the device: their tokens are computed alternately. A client that disconnects ends its
// answer.
import { Readable } from 'node:stream'
import Fastify from 'fastify'
import { encodePrompt, LlamaForCausalLM, LlamaTokenizer } from 'openalpaca-native'

const [directory, port = '3000'] = process.argv.slice(2)
if (!directory) {
  console.error('usage: node examples/server.mjs MODEL_DIRECTORY [PORT]')
  process.exit(2)
}

const tokenizer = await LlamaTokenizer.fromPretrained(directory)
const model = await LlamaForCausalLM.fromPretrained(directory)
const server = Fastify()

const body = {
  type: 'object',
  required: ['instruction'],
  properties: {
    instruction: { type: 'string', minLength: 1 },
    input: { type: 'string' },
    maxNewTokens: { type: 'integer', minimum: 1, maximum: 2048 },
    temperature: { type: 'number', minimum: 0 },
    seed: { type: 'integer', minimum: 0 },
  },
}

/** @typedef {{ instruction: string, input?: string, maxNewTokens?: number, temperature?: number, seed?: number }} Question */

/**
 * @param {Question} question
 * @param {AbortSignal} signal
 */
async function* answer({ instruction, input, ...options }, signal) {
  const prompt = encodePrompt(tokenizer, { instruction, input })
  const text = tokenizer.createDecodeStream()
  try {
    for await (const id of model.stream(prompt, { ...options, tokenizer, signal })) yield text.push(id)
    yield text.flush()
  } catch (error) {
    if (!signal.aborted) throw error // a client that has disconnected waits for nothing
  }
}

server.post('/answer', { schema: { body } }, async (request, reply) => {
  const gone = new AbortController()
  reply.raw.once('close', () => gone.abort())
  const pieces = answer(/** @type {Question} */ (request.body), gone.signal)
  // The first piece is awaited here, so that an error in the request is answered with a status.
  const first = await pieces.next()
  reply.type('text/plain; charset=utf-8')
  return Readable.from(
    (async function* () {
      if (!first.done) yield first.value
      yield* pieces
    })(),
  )
})

server.setErrorHandler((/** @type {import('fastify').FastifyError} */ error, _request, reply) => {
  const isTheClients = error.validation || error instanceof RangeError || error.code === 'SEQUENCE_TOO_LONG'
  if (!isTheClients) console.error(error)
  return reply.code(isTheClients ? 400 : 500).send({ error: isTheClients ? error.message : 'internal error' })
})

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    await server.close()
    model.dispose()
  })
}
console.log(`listening on ${await server.listen({ port: Number(port), host: '127.0.0.1' })}`)
