/** How `npm run test:docs` runs the commands of the documentation: small, or not at all, with the reason. */

/**
 * Commands that cannot run on every contributor's machine, by requirement. docs.test.ts parses them all the same, with
 * the parsers of the programs that they call.
 */
export const cannotRun: [pattern: RegExp, needs: string][] = [
  [/^HF_TOKEN=.* push /, 'an account on the Hub'],
  [/ push /, 'an account on the Hub'],
  [/^(torchrun|srun|mpirun|mpiexec) /, 'a launcher of ranks, and several machines'],
  [/ train .*--gpus /, 'several GPUs'],
  [/--deepspeed /, "OpenAlpaca's repository, which contains the file"],
  [/test:gpu|bundle:gpu/, 'a GPU'],
  [/--python PATH/, 'a Python with torch and transformers'],
  [/^(ollama|docker|curl|git clone|pip) /, 'a third-party program or server'],
  [/^(npm|npx|node) .*(fetch-cuda|kernel-report)/, 'nvcc, which it would download'],
  [/^npm (ci|install|init|publish)\b/, 'the network'],
  [/^cd /, 'the output of the line before it'],
  [/^npm test$|test:docs|^\.ci\/run|^bash \.ci|test-sanitized|npm run lint/, 'as long as CI, which runs it'],
  [/\bnpx vitest/, 'the time of the test suite, whose part it is'],
  [/^(ninja|make|g\+\+|bash|FLAGS=)|prebuild/, 'a separate build'],
  [/npm run setup/, 'a build, which the copy has from here'],
  [/docs:api|npm run format/, 'the network, or changes sources'],
  [/npm run fuzz/, 'minutes; test/fuzz has a share of it'],
  [/test:llama-cpp/, 'the network'],
  [/bench:docs/, 'nothing, but docs.test.ts has the same with --check'],
]

/** Flags that make a command small; the rest of the line stays unchanged. */
export const smaller: [pattern: RegExp, flags: string][] = [
  [
    / train\b(?!.*(--preview|--help))(?!.*(--recipe|--model_path|--data_path))/,
    '--max_steps 2 --batch_size 4 --validation_size 4 --model.hidden_size 32 --model.intermediate_size 32 --model.num_hidden_layers 1 --model.num_attention_heads 2',
  ],
  [
    / train\b(?!.*(--preview|--resume))(?=.*(--recipe|--model_path|--data_path))/,
    '--max_steps 2 --batch_size 4 --max_length 256 --overwrite',
  ],
  [/ train\b(?=.*--resume)/, '--max_steps 2 --batch_size 4 --max_length 256'],
  [/ sample\b/, '--generate_len 8'],
  [/ bench\b/, '--device emulated --only ops --repetitions 1'],
]

/** Substitutes for files of a reader that this copy lacks. */
export const standIns: [text: string, instead: string, why: string][] = [
  ['--input databricks/databricks-dolly-15k ', '--input databricks-dolly-15k.jsonl ', 'it would be downloaded'],
  ['runs/my-run/checkpoint-1000 my-model', 'ckpt/checkpoint-2 from-checkpoint', 'a run of 1000 steps takes hours'],
]
