import type { Command } from 'commander'

/** The examples in each command's `--help`, which the tests check against its flags. */
export const examples: Record<string, string[]> = {
  train: [
    'openalpaca train',
    'openalpaca train --model_path openlm-research/open_llama_3b_v2 --recipe openalpaca-3b --data_path openalpaca.json --save_path ckpt',
    'openalpaca train --recipe openalpaca-3b --model_path open_llama_3b_v2 --data_path openalpaca.json --preview 3',
    'openalpaca train --model_path TinyLlama --data_path mine.json --save_path ckpt --learning_rate 1e-5 --resume',
  ],
  sample: [
    'openalpaca sample --model_path ckpt --instruction "What is an alpaca?"',
    'openalpaca sample --model_path ckpt --instruction "Shorten this text." --input "It was a long day." --greedy',
  ],
  'process-dataset': [
    'openalpaca process-dataset --input databricks/databricks-dolly-15k --output openalpaca.json',
    'openalpaca process-dataset --input mine.jsonl --output mine.json --max_words 500',
  ],
  plan: [
    'openalpaca plan --recipe openalpaca-7b --gpus 64 --nodes 8',
    'openalpaca plan --recipe openalpaca-7b --gpus 1 --offload optimizer --json',
  ],
  'make-shards': [
    'openalpaca make-shards --model_path ckpt --max_shard_size 2GB',
    'openalpaca make-shards --model_path ckpt --format bin --dtype float16 --output ckpt-fp16',
  ],
  'zero-to-fp32': [
    'openalpaca zero-to-fp32 ckpt/checkpoint-400 model.safetensors',
    'openalpaca zero-to-fp32 deepspeed-run merged --model_path open_llama_3b_v2 --dtype bfloat16',
  ],
  inspect: ['openalpaca inspect ckpt', 'openalpaca inspect model.safetensors --tensors --json'],
  convert: [
    'openalpaca convert --model_path ckpt --output model.gguf --dtype q8_0',
    'openalpaca convert --model_path ckpt --output ckpt-bin --to bin',
  ],
  'model-card': [
    'openalpaca model-card --model_path ckpt --license apache-2.0 --datasets databricks/databricks-dolly-15k',
  ],
  push: ['HF_TOKEN=hf_… openalpaca push --model_path ckpt --repo me/my-model --private'],
  doctor: ['openalpaca doctor', 'openalpaca doctor --json > machine.json'],
  completion: [
    'source <(openalpaca completion bash)                                  # in ~/.bashrc',
    'source <(openalpaca completion zsh)                                   # in ~/.zshrc, after compinit',
    'openalpaca completion fish > ~/.config/fish/completions/openalpaca.fish',
  ],
}

/** Adds a command's examples to its help. */
export function addExamples(command: Command): Command {
  const lines = (examples[command.name()] ?? []).map((line) => `  $ ${line}\n`)
  return lines.length === 0 ? command : command.addHelpText('after', `\nExamples:\n${lines.join('')}`)
}

/** The exit codes of every command, shown in the program's help. */
export const exitCodes = `
Exit codes:
  0         done
  1         it failed, or what was inspected is not whole or not in order
  2         the command line was not understood
  130, 143  stopped by Ctrl-C, or by a request to terminate
  129       stopped in order because the terminal, or the reader of a pipe, went away
`
