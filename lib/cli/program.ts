import { Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { nearest } from '../nearest.js'
import { packageVersion } from '../version.js'
import { normalizeArgv } from './argv.js'
import type { PlanFlags } from './commands/plan.js'
import { completionScript, type Shell, shells } from './completion.js'
import { addExamples, exitCodes } from './examples.js'
import { UsageError } from './failure.js'
import { addRecipeFlags, recipeFromFlags, type TrainFlags } from './recipe-flags.js'

/**
 * The command line of `openalpaca`. A command's module is loaded when it runs, so that help needs no native addon; it
 * returns the exit code.
 */
export function createProgram(): Command {
  const program = new Command('openalpaca')
    .description('Fine-tunes and runs LLaMA models.')
    .version(packageVersion)
    .option('--verbose', 'print the stack of an error')
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({ writeErr: () => {} }) // main.ts prints what goes wrong, in one line
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

const jsonOption = () => new Option('--json', 'the result as JSON, for programs')

function trainCommand(): Command {
  const command = new Command('train')
    .description('Trains a model: without flags the quickstart, else what a recipe and the flags say.')
    .usage('[--recipe NAME] [--RECIPE_KEY VALUE ...]')
    .option('--recipe <name>', 'a recipe of this package or the path of a YAML file')
    .option('--deepspeed <file>', 'take settings from a DeepSpeed JSON; flags go before it, and it before the recipe')
    .option(
      '--preview <n>',
      'print n instances, with what is learned told from what is masked, and end',
      positiveNumber,
    )
    .addOption(
      new Option('--json', 'every event of the run as a line of JSON, as in its log, for programs').conflicts(
        'preview',
      ),
    )
  addRecipeFlags(command)
  return command.action(async (flags: TrainFlags & { preview?: number; json?: boolean }) => {
    const say = flags.json ? console.error : console.log
    const recipe = recipeFromFlags(flags, (note) => process.env.RANK === undefined && say(note))
    const { train } = await import('./commands/train.js')
    process.exitCode = await train(recipe, flags)
  })
}

function planCommand(): Command {
  const command = new Command('plan')
    .description(
      'Tells what a run would take on some GPUs: memory, time, communication; exit code 1 if it does not fit.',
    )
    .usage('[--recipe NAME] --gpus N [--nodes M] [--RECIPE_KEY VALUE ...]')
    .option('--recipe <name>', 'a recipe of this package or the path of a YAML file')
    .option('--deepspeed <file>', 'take settings from a DeepSpeed JSON')
    .option('--nodes <n>', 'machines, which have as many GPUs each; --gpus is in all', positiveNumber, 1)
    .option(
      '--config <name>',
      "config.json, model directory or known model such as open_llama_7b; the recipe's model when left out",
    )
    .option('--instances <n>', 'instances of the data set, of which the first are taken', positiveNumber)
    .addOption(new Option('--gpu <name>', 'whose rates are assumed').choices(['h100', 'a100']).default('h100'))
    .option('--measured <file>', 'measured rates instead: the ranks.json of the repository’s benchmarks')
    .option('--gpu_memory <GB>', 'memory of a GPU in 10⁹ bytes', positiveDecimal)
    .option('--matmul_rate <TFLOP/s>', 'that large matrix products reach', positiveDecimal)
    .option('--attention_rate <TFLOP/s>', 'that attention reaches, the masked half left out', positiveDecimal)
    .option('--memory_bandwidth <GB/s>', "of a GPU's memory", positiveDecimal)
    .option('--link_bandwidth <GB/s>', 'of collectives within a machine, each way (busbw)', positiveDecimal)
    .option(
      '--network_bandwidth <GB/s>',
      'of collectives between machines, each way, of a whole machine',
      positiveDecimal,
    )
    .addOption(jsonOption())
  addRecipeFlags(command)
  return command.action(async (flags: TrainFlags & PlanFlags) => {
    const recipe = recipeFromFlags(flags, (note) => console.error(note))
    const { runPlan } = await import('./commands/plan.js')
    process.exitCode = await runPlan(recipe, flags)
  })
}

function sampleCommand(): Command {
  const devices = ['auto', 'cpu', 'cuda']
  return new Command('sample')
    .description('Answers an instruction; the answer is printed as it comes.')
    .requiredOption('--model_path <dir>', 'Hugging Face directory of the model, or its name on the Hub')
    .requiredOption('--instruction <text>', 'what to do')
    .option('--input <text>', 'the text to do it with', '')
    .option('--raw_prompt', 'take the instruction as the whole prompt, without the template')
    .option('--generate_len <n>', 'most new tokens', positiveNumber, 128)
    .option('--top_k <n>', 'draw from the k most likely tokens; 0 for all', wholeNumber, 50)
    .option('--top_p <p>', 'draw from the likeliest tokens that make up this probability, at most 1', share, 0.9)
    .option('--temperature <t>', 'divides the logits; 0 is --greedy', nonNegativeDecimal, 1)
    .option('--repetition_penalty <r>', 'above 1 makes what was said before less likely', positiveDecimal, 1)
    .option('--greedy', 'always take the most likely token, as generate() does when no temperature is given')
    .option('--seed <n>', 'the same seed gives the same answer; a random one when left out', wholeNumber)
    .option('--stop <text...>', 'end before any of these texts', nonEmptyTexts)
    .addOption(jsonOption())
    .addOption(new Option('--device <name>', 'where to run').choices(devices).default('auto'))
    .addOption(new Option('--dtype <name>', 'number format').choices(['auto', 'bfloat16', 'float32']).default('auto'))
    .option('--threads <n>', 'CPU threads; one per core when left out', positiveNumber)
    .action(async (flags) => {
      const { sample } = await import('./commands/sample.js')
      process.exitCode = await sample(flags)
    })
}

function processDatasetCommand(): Command {
  return new Command('process-dataset')
    .description('Turns databricks-dolly-15k, or data like it, into the file that training reads.')
    .requiredOption(
      '--input <file>',
      'a file of JSON, JSON lines, or CSV, or the name of a data set on the Hugging Face Hub',
    )
    .requiredOption('--output <file>', 'the file to write: JSON lines for .jsonl, else a JSON list')
    .option('--max_words <n>', 'leave out instances with more words', positiveNumber, 2000)
    .addOption(jsonOption())
    .action(async (flags) => {
      const { runProcessDataset } = await import('./commands/process-dataset.js')
      process.exitCode = await runProcessDataset(flags)
    })
}

const formatOption = () => new Option('--format <name>', 'of the weight files').choices(['safetensors', 'bin'])
const shardSizeOption = () => {
  return new Option('--max_shard_size <size>', 'most bytes in a file, such as 5GB or 300MB').default('5GB')
}
const weightTypes = ['float32', 'bfloat16', 'float16']

function makeShardsCommand(): Command {
  return new Command('make-shards')
    .description('Splits the weights of a model as Hugging Face does, and converts their format or type.')
    .requiredOption('--model_path <dir>', 'Hugging Face directory of the model, or its name on the Hub')
    .addOption(shardSizeOption())
    .addOption(formatOption())
    .addOption(
      new Option('--dtype <name>', 'convert the weights; they are kept as they are without').choices(weightTypes),
    )
    .option('--output <dir>', 'a new directory; the name of --model_path with "-shards" when left out')
    .option('--replace', 'put the shards in the place of the weights of --model_path, which go when all is well')
    .addOption(jsonOption())
    .action(async (flags) => {
      const { runMakeShards } = await import('./commands/convert-weights.js')
      process.exitCode = await runMakeShards(flags)
    })
}

function zeroToFp32Command(): Command {
  return new Command('zero-to-fp32')
    .description(
      'Puts a sharded training checkpoint together: one of this package, or one of DeepSpeed (ZeRO stages 0 to 3, universal).',
    )
    .argument('<checkpoint>', 'directory of the checkpoint; DeepSpeed’s is the one with "latest" in it')
    .argument('<output>', 'a .bin or .safetensors file, or a new Hugging Face directory')
    .option('--model_path <dir>', 'where config and tokenizer of an output directory come from')
    .addOption(new Option('--dtype <name>', 'number format of the output').choices(weightTypes).default('float32'))
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
      'Tells what a weight file, GGUF file, model or checkpoint holds, and whether it is whole (exit code 0, else 1).',
    )
    .argument('<path>', 'file or directory')
    .addOption(jsonOption())
    .option('--tensors', 'list the tensors')
    .option('--quick', 'skip the checksums, for which every byte is read')
    .action(async (where, flags) => {
      const { runInspect } = await import('./commands/inspect.js')
      process.exitCode = await runInspect(where, flags)
    })
}

function convertCommand(): Command {
  const dtypes = [...weightTypes, 'q8_0']
  return new Command('convert')
    .description('Writes a model in another format or number format: GGUF for llama.cpp, or a Hugging Face directory.')
    .requiredOption('--model_path <dir>', 'Hugging Face directory of the model, or its name on the Hub')
    .requiredOption('--output <path>', 'the .gguf file, or the directory to write')
    .addOption(new Option('--to <format>', 'format').choices(['gguf', 'safetensors', 'bin']).default('gguf'))
    .addOption(new Option('--dtype <name>', 'number format; that of the model when left out').choices(dtypes))
    .addOption(shardSizeOption())
    .option('--name <text>', "for GGUF: the model's name; that of the directory when left out")
    .addOption(jsonOption())
    .action(async (flags) => {
      const { convert } = await import('./commands/convert.js')
      process.exitCode = await convert(flags)
    })
}

function pushCommand(): Command {
  return new Command('push')
    .description('Uploads a model directory to the Hugging Face Hub; HF_TOKEN must be a token that may write.')
    .requiredOption('--model_path <dir>', 'Hugging Face directory of the model')
    .requiredOption('--repo <owner/name>', 'the repository, which is made where it is missing')
    .option('--private', 'make a new repository a private one')
    .option('--revision <branch>', 'the branch to commit to, which is made where it is missing', 'main')
    .option('--message <text>', 'the title of the commit')
    .addOption(jsonOption())
    .action(async (flags) => {
      const { push } = await import('./commands/push.js')
      process.exitCode = await push(flags)
    })
}

function modelCardCommand(): Command {
  return new Command('model-card')
    .description('Writes README.md for a model: how it was trained, on what, and how to use it.')
    .requiredOption('--model_path <dir>', 'Hugging Face directory of the model')
    .option('--log_path <dir>', "the training log's directory; logs in the model's when left out")
    .option('--license <name>', 'as the Hub names it, such as apache-2.0')
    .option('--datasets <names...>', 'data sets on the Hub that it was trained on')
    .option('--languages <codes...>', 'ISO 639 codes; en when left out')
    .option('--base_model <name>', 'the model on the Hub that it was fine-tuned from')
    .option('--name <text>', 'the title; the name of the directory when left out')
    .addOption(jsonOption())
    .action(async (flags) => {
      const { modelCard } = await import('./commands/model-card.js')
      process.exitCode = await modelCard(flags)
    })
}

function doctorCommand(): Command {
  return new Command('doctor')
    .description('Tells what this machine offers and what it lacks, for yourself or for a bug report.')
    .addOption(jsonOption())
    .action(async (flags) => {
      const { doctor } = await import('./commands/doctor.js')
      process.exitCode = await doctor(flags)
    })
}

function completionCommand(program: Command): Command {
  return new Command('completion')
    .description('Prints a script that makes a shell complete commands and flags.')
    .addArgument(new Argument('<shell>', 'which shell').choices(shells))
    .action((shell: Shell) => void process.stdout.write(completionScript(program, shell)))
}

function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It must be a whole number.')
  return Number(text)
}

function positiveNumber(text: string): number {
  if (wholeNumber(text) === 0) throw new InvalidArgumentError('It must be above 0.')
  return Number(text)
}

function decimal(text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('It must be a number.')
  return value
}

function positiveDecimal(text: string): number {
  if (!(decimal(text) > 0)) throw new InvalidArgumentError('It must be above 0.')
  return Number(text)
}

function nonNegativeDecimal(text: string): number {
  if (!(decimal(text) >= 0)) throw new InvalidArgumentError('It must be 0 or above.')
  return Number(text)
}

function share(text: string): number {
  if (!(positiveDecimal(text) <= 1)) throw new InvalidArgumentError('It must be above 0 and at most 1.')
  return Number(text)
}

/** Gathers the values of a flag that takes several. */
function nonEmptyTexts(text: string, before: string[] = []): string[] {
  if (text === '') throw new InvalidArgumentError('It must not be empty.')
  return [...before, text]
}

/**
 * Runs the command that the arguments (without node and the script) name.
 *
 * @throws UsageError for an unknown command, CommanderError for an unknown flag or after help, and what the command throws
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
    throw lacksCommand ? new UsageError('no command was named; "openalpaca --help" lists them') : error
  }
}

function unknownCommand(name: string, program: Command): UsageError {
  const names = program.commands.map((command) => command.name())
  const near = nearest(name, names)
  return new UsageError(
    `there is no command ${name}; ${near ? `did you mean ${near}?` : `there are ${names.join(', ')}`}`,
  )
}

/** Whether the error only says that help or the version was printed. */
export function isHelp(error: unknown): boolean {
  return error instanceof CommanderError && error.exitCode === 0
}
