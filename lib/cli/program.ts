import { Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { nearest } from '../nearest.js'
import { packageVersion } from '../version.js'
import { explainUnknownFlag, recipeArgument, withArguments } from './arguments.js'
import { normalizeArgv } from './argv.js'
import type { ConvertFlags } from './commands/convert.js'
import type { MakeShardsFlags } from './commands/convert-weights.js'
import type { ModelCardFlags } from './commands/model-card.js'
import type { PlanFlags } from './commands/plan.js'
import type { ProcessDatasetFlags } from './commands/process-dataset.js'
import type { PushFlags } from './commands/push.js'
import type { SampleFlags } from './commands/sample.js'
import { completionScript, type Shell, shells } from './completion.js'
import { addExamples, exitCodes } from './examples.js'
import { UsageError } from './failure.js'
import { addRecipeFlags, recipeFromFlags, type TrainFlags } from './recipe-flags.js'

/**
 * The command line of `openalpaca`. A command's module is loaded when it runs, so that help works without the native
 * addon; it returns the exit code.
 */
export function createProgram(): Command {
  const program = new Command('openalpaca')
    .description('Fine-tunes and runs LLaMA models.')
    .version(packageVersion)
    .option('--verbose', 'print the stack of an error')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ writeErr: () => {} }) // main.ts prints errors, in one line
    .exitOverride()
    .addHelpText('after', exitCodes)
  const commands = [
    trainCommand(),
    sampleCommand(),
    processDatasetCommand(),
    planCommand(),
    makeShardsCommand(),
    zeroToFp32Command(),
    inspectCommand(),
    convertCommand(),
    modelCardCommand(),
    pushCommand(),
    doctorCommand(),
    completionCommand(program),
  ]
  for (const command of commands) program.addCommand(addExamples(configure(command, program)))
  return program
}

function configure(command: Command, program: Command): Command {
  return command.copyInheritedSettings(program).allowExcessArguments(false)
}

const jsonOption = () => new Option('--json', 'print the result as JSON')

function trainCommand(): Command {
  const command = new Command('train')
    .description('Trains a model as a recipe and flags say; without flags, runs the quickstart.')
    .usage('[--recipe NAME] [--RECIPE_KEY VALUE ...]')
    .argument('[recipe]', 'the same as --recipe')
    .option('--recipe <name>', 'a built-in recipe, or the path of a YAML file')
    .option(
      '--deepspeed <file>',
      'take settings from a DeepSpeed JSON file; they override the recipe, and flags override them',
    )
    .option(
      '--preview <n>',
      'print n training examples with the masked and learned parts marked, then exit',
      positiveNumber,
    )
    .addOption(
      new Option('--json', 'print every event of the run as a line of JSON, as in its log').conflicts('preview'),
    )
  addRecipeFlags(command)
  return command.action(async (name: string | undefined, given: TrainFlags & { preview?: number; json?: boolean }) => {
    const flags = { ...given, recipe: recipeArgument(name, given.recipe) }
    const say = flags.json ? console.error : console.log
    const recipe = recipeFromFlags(flags, (note) => process.env.RANK === undefined && say(note))
    const { train } = await import('./commands/train.js')
    process.exitCode = await train(recipe, flags)
  })
}

function planCommand(): Command {
  const command = new Command('plan')
    .description('Estimates the memory, time, and communication of a run; exits with 1 if it does not fit.')
    .usage('[--recipe NAME] --gpus N [--nodes M] [--RECIPE_KEY VALUE ...]')
    .argument('[recipe]', 'the same as --recipe')
    .option('--recipe <name>', 'a built-in recipe, or the path of a YAML file')
    .option('--deepspeed <file>', 'take settings from a DeepSpeed JSON file')
    .option('--nodes <n>', 'machines with the same number of GPUs; --gpus is the total', positiveNumber, 1)
    .option(
      '--config <name>',
      "config.json, model directory, or known model such as open_llama_7b (default: the recipe's model)",
    )
    .option('--instances <n>', 'use only the first n instances of the data set', positiveNumber)
    .addOption(new Option('--gpu <name>', 'GPU whose speed is assumed').choices(['h100', 'a100']).default('h100'))
    .option('--measured <file>', 'use measured rates: ranks.json of the benchmarks')
    .option('--gpu_memory <GB>', 'memory of a GPU in 10⁹ bytes', positiveDecimal)
    .option('--matmul_rate <TFLOP/s>', 'rate of large matrix products', positiveDecimal)
    .option('--attention_rate <TFLOP/s>', 'rate of attention, without the masked half', positiveDecimal)
    .option('--memory_bandwidth <GB/s>', "bandwidth of a GPU's memory", positiveDecimal)
    .option('--link_bandwidth <GB/s>', 'bandwidth of collectives within a machine, each way (busbw)', positiveDecimal)
    .option(
      '--network_bandwidth <GB/s>',
      'bandwidth of collectives between machines, each way, per machine',
      positiveDecimal,
    )
    .addOption(jsonOption())
  addRecipeFlags(command)
  return command.action(async (name: string | undefined, given: TrainFlags & PlanFlags) => {
    const flags = { ...given, recipe: recipeArgument(name, given.recipe) }
    const recipe = recipeFromFlags(flags, (note) => console.error(note))
    const { runPlan } = await import('./commands/plan.js')
    process.exitCode = await runPlan(recipe, flags)
  })
}

function sampleCommand(): Command {
  const devices = ['auto', 'cpu', 'cuda']
  return new Command('sample')
    .description('Answers an instruction, printing the answer as it is generated.')
    .argument('[model_path]', 'the same as --model_path')
    .argument('[instruction]', 'the same as --instruction')
    .option(
      '--model_path <dir>',
      'Hugging Face directory of the model, its name on the Hub, or a training checkpoint or the directory of its run',
    )
    .option('--instruction <text>', 'the instruction; - reads it from standard input')
    .option('--input <text>', 'optional context for the instruction; - reads it from standard input', '')
    .option('--raw_prompt', 'use the instruction as the full prompt, without the template')
    .option('--generate_len <n>', 'maximum number of new tokens', positiveNumber, 128)
    .option('--top_k <n>', 'sample from the k most likely tokens; 0 for all', wholeNumber, 50)
    .option(
      '--top_p <p>',
      'sample from the most likely tokens that reach this total probability, at most 1',
      share,
      0.9,
    )
    .option('--temperature <t>', 'divides the logits; 0 is the same as --greedy', nonNegativeDecimal, 1)
    .option('--repetition_penalty <r>', 'values above 1 make earlier tokens less likely', positiveDecimal, 1)
    .option('--greedy', 'always take the most likely token, the default of generate()')
    .option('--seed <n>', 'the same seed gives the same answer (default: random)', wholeNumber)
    .option('--stop <text...>', 'stop before any of these texts', nonEmptyTexts)
    .addOption(jsonOption())
    .addOption(new Option('--device <name>', 'where to run').choices(devices).default('auto'))
    .addOption(new Option('--dtype <name>', 'number format').choices(['auto', 'bfloat16', 'float32']).default('auto'))
    .option('--threads <n>', 'CPU threads (default: one per core)', positiveNumber)
    .action(
      withArguments(async (flags: SampleFlags) => {
        const { sample } = await import('./commands/sample.js')
        process.exitCode = await sample(flags)
      }),
    )
}

function processDatasetCommand(): Command {
  return new Command('process-dataset')
    .description('Converts databricks-dolly-15k, or similar data, into a training file.')
    .argument('[input]', 'the same as --input')
    .argument('[output]', 'the same as --output')
    .option('--input <file>', 'a JSON, JSON lines, or CSV file, or the name of a data set on the Hugging Face Hub')
    .option('--output <file>', 'the file to write: JSON lines for .jsonl, otherwise a JSON list')
    .option('--max_words <n>', 'skip instances with more words', positiveNumber, 2000)
    .addOption(jsonOption())
    .action(
      withArguments(async (flags: ProcessDatasetFlags) => {
        const { runProcessDataset } = await import('./commands/process-dataset.js')
        process.exitCode = await runProcessDataset(flags)
      }),
    )
}

const formatOption = () => new Option('--format <name>', 'format of the weight files').choices(['safetensors', 'bin'])
const shardSizeOption = () => {
  return new Option('--max_shard_size <size>', 'largest weight file, such as 5GB or 300MB').default('5GB')
}
const weightTypes = ['float32', 'bfloat16', 'float16']
function strictOption(): Option {
  return new Option('--strict', 'fail, and write nothing, if --dtype cannot hold a value (default: warn)')
}

function makeShardsCommand(): Command {
  return new Command('make-shards')
    .description('Splits the weights of a model as Hugging Face does, and converts their format or type.')
    .argument('[model_path]', 'the same as --model_path')
    .option('--model_path <dir>', 'Hugging Face directory of the model, or its name on the Hub')
    .addOption(shardSizeOption())
    .addOption(formatOption())
    .addOption(new Option('--dtype <name>', 'convert the weights (default: keep their type)').choices(weightTypes))
    .option('--output <dir>', 'a new directory (default: --model_path with "-shards" added)')
    .option('--replace', 'replace the weights in --model_path by the shards, once they are written and checked')
    .addOption(strictOption())
    .addOption(jsonOption())
    .action(
      withArguments(async (flags: MakeShardsFlags) => {
        const { runMakeShards } = await import('./commands/convert-weights.js')
        process.exitCode = await runMakeShards(flags)
      }),
    )
}

function zeroToFp32Command(): Command {
  return new Command('zero-to-fp32')
    .description(
      'Merges a sharded training checkpoint of this package or of DeepSpeed (ZeRO stages 0 to 3, universal).',
    )
    .argument('<checkpoint>', 'directory of the checkpoint; for DeepSpeed, the one that contains "latest"')
    .argument('<output>', 'a .bin or .safetensors file, or a new Hugging Face directory')
    .option('--model_path <dir>', 'source of the config and tokenizer of an output directory')
    .addOption(new Option('--dtype <name>', 'number format of the output').choices(weightTypes).default('float32'))
    .addOption(strictOption())
    .addOption(shardSizeOption())
    .addOption(formatOption())
    .addOption(jsonOption())
    .action(async (checkpoint, output, flags) => {
      const { runZeroToFp32 } = await import('./commands/convert-weights.js')
      process.exitCode = await runZeroToFp32(checkpoint, output, flags)
    })
}

function inspectCommand(): Command {
  return new Command('inspect')
    .description(
      'Describes a weight file, GGUF file, model, or checkpoint, and checks it for damage (exits with 1 if it has any).',
    )
    .argument('<path>', 'file or directory')
    .addOption(jsonOption())
    .option('--tensors', 'list the tensors')
    .option('--quick', 'skip the checksums, which read every byte')
    .action(async (where, flags) => {
      const { runInspect } = await import('./commands/inspect.js')
      process.exitCode = await runInspect(where, flags)
    })
}

function convertCommand(): Command {
  const dtypes = [...weightTypes, 'q8_0']
  return new Command('convert')
    .description('Writes a model in another format or number format: GGUF for llama.cpp, or a Hugging Face directory.')
    .argument('[model_path]', 'the same as --model_path')
    .argument('[output]', 'the same as --output')
    .option('--model_path <dir>', 'Hugging Face directory of the model, or its name on the Hub')
    .option('--output <path>', 'the .gguf file, or the directory to write')
    .addOption(new Option('--to <format>', 'format').choices(['gguf', 'safetensors', 'bin']).default('gguf'))
    .addOption(new Option('--dtype <name>', 'number format (default: that of the model)').choices(dtypes))
    .addOption(shardSizeOption())
    .option('--name <text>', "for GGUF: the model's name (default: that of the directory)")
    .option('--overwrite', 'replace a .gguf file that exists')
    .addOption(strictOption())
    .addOption(jsonOption())
    .action(
      withArguments(async (flags: ConvertFlags) => {
        const { convert } = await import('./commands/convert.js')
        process.exitCode = await convert(flags)
      }),
    )
}

function pushCommand(): Command {
  return new Command('push')
    .description('Uploads a model directory to the Hugging Face Hub; HF_TOKEN must be a token with write access.')
    .argument('[model_path]', 'the same as --model_path')
    .argument('[repo]', 'the same as --repo')
    .option('--model_path <dir>', 'Hugging Face directory of the model')
    .option('--repo <owner/name>', 'the repository; created if it does not exist')
    .option('--private', 'create a new repository as private')
    .option('--revision <branch>', 'the branch to commit to; created if it does not exist', 'main')
    .option('--message <text>', 'the title of the commit')
    .addOption(jsonOption())
    .action(
      withArguments(async (flags: PushFlags) => {
        const { push } = await import('./commands/push.js')
        process.exitCode = await push(flags)
      }),
    )
}

function modelCardCommand(): Command {
  return new Command('model-card')
    .description('Writes a model card (README.md): how the model was trained, on which data, and how to use it.')
    .argument('[model_path]', 'the same as --model_path')
    .option('--model_path <dir>', 'Hugging Face directory of the model')
    .option('--log_path <dir>', 'directory of the training log (default: logs in the model directory)')
    .option('--license <name>', 'license as the Hub names it, such as apache-2.0')
    .option('--datasets <names...>', 'data sets on the Hub that it was trained on')
    .option('--languages <codes...>', 'ISO 639 codes (default: en)')
    .option('--base_model <name>', 'the model on the Hub that it was fine-tuned from')
    .option('--name <text>', 'the title (default: the name of the directory)')
    .addOption(jsonOption())
    .action(
      withArguments(async (flags: ModelCardFlags) => {
        const { modelCard } = await import('./commands/model-card.js')
        process.exitCode = await modelCard(flags)
      }),
    )
}

function doctorCommand(): Command {
  return new Command('doctor')
    .description('Reports the hardware and software that are used or missing, for yourself or for a bug report.')
    .addOption(jsonOption())
    .action(async (flags) => {
      const { doctor } = await import('./commands/doctor.js')
      process.exitCode = await doctor(flags)
    })
}

function completionCommand(program: Command): Command {
  return new Command('completion')
    .description('Prints a script that completes commands and flags in a shell.')
    .addArgument(new Argument('<shell>', 'which shell').choices(shells))
    .action((shell: Shell) => void process.stdout.write(completionScript(program, shell)))
}

function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('Expected a whole number.')
  return Number(text)
}

function positiveNumber(text: string): number {
  if (wholeNumber(text) === 0) throw new InvalidArgumentError('Expected a number above 0.')
  return Number(text)
}

function decimal(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.')
  return value
}

function positiveDecimal(text: string): number {
  if (!(decimal(text) > 0)) throw new InvalidArgumentError('Expected a number above 0.')
  return Number(text)
}

function nonNegativeDecimal(text: string): number {
  if (!(decimal(text) >= 0)) throw new InvalidArgumentError('Expected a number of at least 0.')
  return Number(text)
}

function share(text: string): number {
  if (!(positiveDecimal(text) <= 1)) throw new InvalidArgumentError('Expected a number above 0 and at most 1.')
  return Number(text)
}

/** Collects the values of a flag that takes several. */
function nonEmptyTexts(text: string, before: string[] = []): string[] {
  if (text === '') throw new InvalidArgumentError('Expected a text that is not empty.')
  return [...before, text]
}

/**
 * Runs the command of these arguments (without node and the script).
 * @throws {UsageError} for an unknown command
 * @throws {CommanderError} for an unknown flag, or after help
 * @throws {Error} as the command does
 */
export async function runProgram(argv: readonly string[]): Promise<void> {
  const program = createProgram()
  const words = argv.filter((argument) => !argument.startsWith('-'))
  const name = words[0] === 'help' ? words[1] : words[0]
  const command = program.commands.find((candidate) => candidate.name() === name)
  if (name !== undefined && !command) throw unknownCommand(name, program)
  if (argv.length === 0) {
    program.outputHelp()
    return
  }
  const options = [...program.options, ...(command?.options ?? [])]
  const takesValue = (flag: string) => options.some((option) => option.long === flag && option.required)
  try {
    await program.parseAsync(normalizeArgv(argv, takesValue), { from: 'user' })
  } catch (error) {
    const lacksCommand = error instanceof CommanderError && error.code === 'commander.help' && error.exitCode !== 0
    if (lacksCommand) throw new UsageError('expected a command; "openalpaca --help" lists them')
    throw explainUnknownFlag(error, command?.name() ?? '')
  }
}

function unknownCommand(name: string, program: Command): UsageError {
  const names = program.commands.map((command) => command.name())
  const near = nearest(name, names)
  return new UsageError(
    `unknown command ${name}; ${near ? `did you mean ${near}?` : `expected one of ${names.join(', ')}`}`,
  )
}

/** Whether the error only means that help or the version was printed. */
export function isHelp(error: unknown): boolean {
  return error instanceof CommanderError && error.exitCode === 0
}
