import { formatPrompt } from './prompt.js'

/** A prompt as a Jinja expression, with the message's fields in place of `{content}` and `{input}`. */
function expression(prompt: string): string {
  const parts = prompt.split(/\{(content|input)\}/)
  return parts.map((part, i) => (i % 2 === 0 ? `'${part.replaceAll('\n', '\\n')}'` : `message['${part}']`)).join(' + ')
}

const withInput = expression(formatPrompt({ instruction: '{content}', input: '{input}' }))
const withoutInput = expression(formatPrompt({ instruction: '{content}' }))

/**
 * The prompt of `formatPrompt` as a chat template, for programs that read it from a model: Transformers, llama.cpp, and
 * those built on it. A user's message is an instruction and may have an `input` in addition to its `content`. The model
 * has learned one instruction with one answer; a system message, which it has not seen, goes first.
 *
 * node-llama-cpp, unlike the others, leaves `add_generation_prompt` undefined, renders a marker in place of each text,
 * and ends every chat with an empty answer. It omits anything after an empty text or before an answer, which leaves
 * exactly the trained prompt.
 */
export const alpacaChatTemplate =
  '{{ bos_token }}{% for message in messages %}' +
  "{% if message['role'] == 'system' %}{{ message['content'] }}" +
  "{% if message['content'] and add_generation_prompt is defined %}{{ '\\n\\n' }}{% endif %}" +
  "{% elif message['role'] == 'user' %}" +
  `{% if message['input'] %}{{ ${withInput} }}{% else %}{{ ${withoutInput} }}{% endif %}` +
  "{% elif message['role'] == 'assistant' %}" +
  "{% if add_generation_prompt is defined %}{{ ' ' }}{% endif %}{{ message['content'] + eos_token }}" +
  "{% else %}{{ raise_exception('expected the roles system, user, and assistant, got ' + message['role']) }}{% endif %}" +
  '{% endfor %}'
