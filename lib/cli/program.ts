import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { nearest } from '../nearest.js'
import { packageVersion } from '../version.js'
import { normalizeArgv } from './argv.js'
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
  program.addCommand(configure(trainCommand(), program))
  program.addCommand(configure(sampleCommand(), program))
  program.addCommand(configure(processDatasetCommand(), program))
  return program
}

function configure(command: Command, program: Command): Command {
  return command.copyInheritedSettings(program).allowExcessArguments(false)
}

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
  addRecipeFlags(command)
  return command.action(async (flags: TrainFlags & { preview?: number }) => {
    const recipe = recipeFromFlags(flags, (note) => process.env.RANK === undefined && console.log(note))
    const { train } = await import('./commands/train.js')
    process.exitCode = await train(recipe, flags)
  })
}

function sampleCommand(): Command {
  const devices = ['auto', 'cpu', 'cuda']
  return new Command('sample')
    .description('Answers an instruction; the answer is printed as it comes.')
    .requiredOption('--model_path <dir>', 'Hugging Face directory of the model')
    .requiredOption('--instruction <text>', 'what to do')
    .option('--input <text>', 'the text to do it with', '')
    .option('--raw_prompt', 'take the instruction as the whole prompt, without the template')
    .option('--generate_len <n>', 'most new tokens', positiveNumber, 128)
    .option('--top_k <n>', 'draw from the k most likely tokens; 0 for all', wholeNumber, 50)
    .option('--top_p <p>', 'draw from the likeliest tokens that make up this probability', decimal, 0.9)
    .option('--temperature <t>', 'divides the logits', decimal, 1)
    .option('--repetition_penalty <r>', 'above 1 makes what was said before less likely', decimal, 1)
    .option('--greedy', 'always take the most likely token')
    .option('--seed <n>', 'the same seed gives the same answer; a random one when left out', wholeNumber)
    .option('--stop <text...>', 'end before any of these texts')
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
    .requiredOption('--input <file>', 'a .json or .jsonl file, or the name of a data set on the Hugging Face Hub')
    .requiredOption('--output <file>', 'the .json file to write')
    .option('--max_words <n>', 'leave out instances with more words', positiveNumber, 2000)
    .action(async (flags) => {
      const { runProcessDataset } = await import('./commands/process-dataset.js')
      process.exitCode = await runProcessDataset(flags)
    })
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

/**
 * Runs the command that the arguments (without node and the script) name.
 *
 * @throws UsageError for an unknown command, CommanderError for an unknown flag or after help, and what the command throws
 */
export async function runProgram(argv: readonly string[]): Promise<void> {
  const program = createProgram()
  const name = argv.find((argument) => !argument.startsWith('-'))
  const command = program.commands.find((candidate) => candidate.name() === name)
  if (name !== undefined && !command && name !== 'help') throw unknownCommand(name, program)
  if (argv.length === 0) {
    program.outputHelp()
    return
  }
  const options = [...program.options, ...(command?.options ?? [])]
  const takesValue = (flag: string) => options.some((option) => option.long === flag && option.required)
  await program.parseAsync(normalizeArgv(argv, takesValue), { from: 'user' })
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
