import { formatPrompt } from './prompt.js'

/** A prompt as a Jinja expression, with fields of the message in the place of `{content}` and `{input}`. */
function expression(prompt: string): string {
  const parts = prompt.split(/\{(content|input)\}/)
  return parts.map((part, i) => (i % 2 === 0 ? `'${part.replaceAll('\n', '\\n')}'` : `message['${part}']`)).join(' + ')
}

const withInput = expression(formatPrompt({ instruction: '{content}', input: '{input}' }))
const withoutInput = expression(formatPrompt({ instruction: '{content}' }))

/**
 * The prompt of `formatPrompt` as a chat template, for programs that read it from a model: Transformers, llama.cpp, and those
 * built on it. A user's message is an instruction; it may have an `input` next to its `content`. The model has learned one
 * instruction and one answer; a system message, which it has not seen, stands in front.
 *
 * node-llama-cpp, unlike the others, leaves `add_generation_prompt` undefined, renders a mark in the place of each
 * text, and ends every chat with an answer that is still empty. What would follow an empty text, or come before an
 * answer, is left out there, so that the prompt is the one that was trained.
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
