import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { LlamaForCausalLM } from '../../causal-lm.js'
import { buildInstances } from '../../data/instances.js'
import { type Instruction, readDataset } from '../../data/instructions.js'
import { DataNotes } from '../../data/notes.js'
import { previewInstances } from '../../data/preview.js'
import { answersToShow, scoreAnswers } from '../../data/quickstart/evaluate.js'
import { generateQuickstart, type QuickstartRow } from '../../data/quickstart/generator.js'
import { fileSource } from '../../data/text-file.js'
import { formatBytes } from '../../format.js'
import { withLocks } from '../../io/lock.js'
import { readConfig } from '../../model/config.js'
import { checkAddress } from '../../parallel/address.js'
import { placeFromEnvironment } from '../../parallel/environment.js'
import { RankGroup } from '../../parallel/group.js'
import { endWithLauncher, launch } from '../../parallel/launcher.js'
import { LlamaTokenizer } from '../../tokenizer/tokenizer.js'
import { writeModelCard } from '../../tools/model-card.js'
import { answerInstructions, endsTraining, isAbort } from '../../train/answers.js'
import { keepCheckpoints, listCheckpoints } from '../../train/checkpoint.js'
import { Followers, type TrainEvent, type TrainSubscriber } from '../../train/events.js'
import { joinRun } from '../../train/join.js'
import { TrainingLog } from '../../train/log.js'
import { MachineWatch } from '../../train/machine-watch.js'
import { optionsFromRecipe, withMaxLength } from '../../train/recipe.js'
import { defaultMaxLength, type Recipe } from '../../train/recipe-schema.js'
import { writeReport } from '../../train/report/index.js'
import { TensorBoardWriter } from '../../train/tensorboard.js'
import { Trainer } from '../../train/trainer.js'
import { EventLines, type RunDisplay } from '../event-lines.js'
import { errorLine, UsageError } from '../failure.js'
import { launchRequest } from '../launch-request.js'
import { modelDirectory } from '../model-path.js'
import { ProgressDisplay } from '../progress.js'
import { StopRequest } from '../signals.js'
import { hasColors, printNotes } from '../terminal.js'

/** Flags of `train` that are not in the recipe. */
interface TrainOptions {
  preview?: number
  json?: boolean
}

/** Trains according to the recipe, and saves the model with logs and a report. Returns the exit code. */
export async function train(recipe: Recipe, options: TrainOptions = {}): Promise<number> {
  const place = placeFromEnvironment(process.env)
  if (options.preview === undefined) {
    const request = launchRequest(recipe, place)
    if (request) return await launch(request)
  }
  using stop = new StopRequest()
  try {
    await trainHere(recipe, options, place, stop)
  } catch (error) {
    if (error !== stop.signal.reason) throw error
  }
  return stop.exitCode ?? 0
}

/**
 * Trains the full model, or one rank's part. If it is stopped and leaves nothing to resume from, it throws the reason
 * of the request.
 */
async function trainHere(
  asked: Recipe,
  options: TrainOptions,
  place: ReturnType<typeof placeFromEnvironment>,
  stop: StopRequest,
): Promise<void> {
  const { signal } = stop
  const isRank = place?.kind === 'rank' && place.size > 1
  if (isRank && options.preview === undefined) await checkAddress(place.address, { signal })
  const parts = options.preview === undefined ? 'all' : 'tokenizer'
  const recipe = await withLocalPaths(asked, { parts, signal }, isRank && place.rank > 0)
  if (!isRank) stop.release() // a rank never does: if it missed a signal, the others would wait for it
  const data = await readData(recipe)
  const tokenizer = await LlamaTokenizer.fromPretrained(tokenizerPath(recipe))
  signal.throwIfAborted()
  if (options.preview !== undefined) return await preview(options.preview, data, tokenizer, recipe)
  stop.listen()
  const run = { asked, recipe, data, tokenizer, json: options.json, stop }
  if (!isRank) return await trainRank(run, RankGroup.alone)

  endWithLauncher()
  using group = await joinRun(place, recipe, signal)
  try {
    await trainRank(run, group)
  } catch (cause) {
    const error = await group.explain(cause)
    group.fail(errorLine(error).replace('error: ', ''))
    throw error
  }
}

/** The inputs of a rank's part. */
interface RankRun {
  /** The recipe as given, for the record. */
  asked: Recipe
  /** The recipe with its models on this machine. */
  recipe: Recipe
  data: TrainingRows
  tokenizer: LlamaTokenizer
  json?: boolean
  stop: StopRequest
}

/** One rank's part, or the full run of a single process. Rank 0 displays it, and writes the logs. */
async function trainRank(run: RankRun, group: RankGroup): Promise<void> {
  const { recipe } = run
  const savePath = required(recipe.save_path, 'save_path is required', '--save_path DIR')
  const logPath = recipe.log_path ?? join(savePath, 'logs')
  const isFirst = group.rank === 0
  await withLocks(isFirst ? [savePath, logPath] : [], () => trainInto(savePath, logPath, run, group))
}

async function trainInto(
  savePath: string,
  logPath: string,
  { asked, recipe, data, tokenizer, json, stop }: RankRun,
  group: RankGroup,
): Promise<void> {
  const { signal } = stop
  const isFirst = group.rank === 0
  const display: RunDisplay = json ? new EventLines() : new ProgressDisplay()
  const log = new TrainingLog(logPath)
  const onWarning = (message: string) => display.print(`warning: ${message}`)
  const subscribers: TrainSubscriber[] = isFirst ? [display, log, new TensorBoardWriter(logPath)] : []
  if (isFirst) subscribers.push(new MachineWatch(new Followers([...subscribers])))
  const sayStopping = () => isFirst && display.print('stopping after this step; press Ctrl-C again to quit immediately')
  signal.addEventListener('abort', sayStopping)
  stop.onQuit = () => display.close()
  let trained = false
  /** A directory for `sample`: the saved model, or the last checkpoint of a stopped run. */
  let runnable: string | undefined
  try {
    if (isFirst) printNotes(data.notes.lines(), (line) => display.print(line))
    using model = await createModel(recipe, tokenizer, group, signal, onWarning)
    const trainer = new Trainer({ model, tokenizer, data: data.train, notes: data.notes, ...optionsFromRecipe(asked) })
    const onTrained = async () => {
      await model.savePretrained(savePath, {
        dtype: recipe.save_dtype === 'auto' ? undefined : recipe.save_dtype,
        maxShardSize: recipe.max_shard_size,
        tokenizer,
        onWarning,
      })
      runnable = savePath
      if (isFirst) display.print(`model saved in ${savePath}`)
    }
    const result = await trainer.train({ subscribers, signal, onStep: () => (trained = true), onTrained })
    if (result.reason === 'stopped') runnable = (await listCheckpoints(savePath))[0]
    const { heldOut } = data
    if (result.reason === 'completed' && heldOut.length > 0) {
      const { emit } = new Followers(subscribers)
      await model.asOne((whole) => judge(whole, tokenizer, heldOut, result.steps, emit, signal))
    }
    await group.barrier()
    if (isFirst && result.reason === 'completed') await sayKept(savePath, display)
  } finally {
    signal.removeEventListener('abort', sayStopping)
    for (const subscriber of subscribers) attempt('cannot close the log', () => subscriber.close())
    if (trained && isFirst) {
      attempt('cannot write the report', () => report(log.path, join(logPath, 'report.html'), display))
    }
    if (isFirst && runnable === savePath) await describe(savePath, logPath, display)
    if (isFirst && runnable !== undefined) display.print(`try it: ${sampleCommandLine(runnable)}`)
  }
}

/**
 * Reports the kept checkpoints: a completed run needs them only to be continued, and they are several times as large as
 * the model.
 */
async function sayKept(savePath: string, display: RunDisplay): Promise<void> {
  const { directories, bytes } = await keepCheckpoints(savePath, 'all')
  if (directories.length === 0) return
  const what = directories.length === 1 ? `kept ${directories[0]}` : `kept ${directories.length} checkpoints`
  display.print(
    `${what} (${formatBytes(bytes)} with optimizer states) to continue training; --keep_checkpoints none keeps none`,
  )
}

/** The recipe with models on the Hub downloaded and replaced by their directories. */
async function withLocalPaths(
  recipe: Recipe,
  options: { parts: 'all' | 'tokenizer'; signal: AbortSignal },
  quiet: boolean,
): Promise<Recipe> {
  const { model_path: model, tokenizer_path: tokenizer } = recipe
  try {
    return {
      ...recipe,
      ...(model && { model_path: await modelDirectory(model, options) }),
      ...(tokenizer && { tokenizer_path: await modelDirectory(tokenizer, { ...options, parts: 'tokenizer' }) }),
    }
  } catch (error) {
    if (options.signal.aborted && !quiet)
      console.error('the download stopped; run the same command again to continue it')
    throw options.signal.aborted ? options.signal.reason : error
  }
}

function required<T>(value: T | undefined, problem: string, flag: string): T {
  if (value === undefined) throw new UsageError(`${problem}: add ${flag}, or set it in the recipe`)
  return value
}

interface TrainingRows {
  train: Instruction[]
  /** Instructions that evaluate the trained model; empty if the data has none. */
  heldOut: QuickstartRow[]
  notes: DataNotes
}

/** The training data of a recipe. */
export async function readData(recipe: Recipe): Promise<TrainingRows> {
  if (recipe.dataset === 'quickstart') return { ...generateQuickstart({ seed: recipe.seed }), notes: new DataNotes() }
  const path = required(recipe.data_path, 'data_path is required', '--data_path FILE')
  const { rows, notes } = await readDataset(fileSource(path))
  return { train: rows, heldOut: [], notes }
}

function tokenizerPath(recipe: Recipe): string {
  const path = recipe.tokenizer_path ?? recipe.model_path
  return required(path, 'no model to train', '--model_path DIR (or, for a new model, --tokenizer_path DIR)')
}

async function preview(count: number, data: TrainingRows, tokenizer: LlamaTokenizer, recipe: Recipe): Promise<void> {
  printNotes(data.notes.lines())
  const { max_length } = withMaxLength(recipe, await contextOf(recipe))
  const { instances, dropped, truncated } = await buildInstances(data.train, tokenizer, max_length)
  if (dropped > 0) console.log(`${dropped} instances skipped: their prompts fill max_length ${max_length}`)
  if (truncated > 0) {
    console.log(`${truncated} of ${instances.length} answers cut at max_length ${max_length}, without their end token`)
  }
  console.log(previewInstances(instances, tokenizer, count, { color: hasColors(process.stdout) }))
}

/** The context of the model that a recipe trains; unlimited if only its tokenizer is available. */
async function contextOf({ model_path, model }: Recipe): Promise<number> {
  if (model_path === undefined) return model?.max_position_embeddings ?? Number.POSITIVE_INFINITY
  if (!existsSync(join(model_path, 'config.json'))) return Number.POSITIVE_INFINITY
  return (await readConfig(model_path)).maxPositionEmbeddings
}

async function createModel(
  recipe: Recipe,
  tokenizer: LlamaTokenizer,
  group: RankGroup,
  signal: AbortSignal,
  onWarning: (message: string) => void,
): Promise<LlamaForCausalLM> {
  const { device, dtype, seed, model_path: path } = recipe
  if (path) {
    const options = { device, dtype, group, signal, onWarning, masterWeights: true }
    return await LlamaForCausalLM.fromPretrained(path, options)
  }
  const config = required(recipe.model, 'no model to train', '--model_path DIR')
  const { bosTokenId, eosTokenId, padTokenId } = tokenizer
  const tokens = { bos_token_id: bosTokenId, eos_token_id: eosTokenId, pad_token_id: padTokenId }
  const sizes = { vocab_size: tokenizer.vocabSize, max_position_embeddings: recipe.max_length ?? defaultMaxLength }
  return LlamaForCausalLM.fromConfig(
    { ...tokens, ...sizes, ...config },
    { device, dtype, group, seed, masterWeights: true },
  )
}

/** Evaluates the trained model on instructions that it has never seen: counts the correct answers, and shows three. */
async function judge(
  model: LlamaForCausalLM,
  tokenizer: LlamaTokenizer,
  rows: QuickstartRow[],
  step: number,
  emit: (event: TrainEvent) => void,
  signal: AbortSignal,
): Promise<void> {
  let answers: string[]
  try {
    answers = await answerInstructions(model, tokenizer, rows, { signal })
  } catch (error) {
    if (isAbort(error)) return
    if (endsTraining(error, model)) throw error
    emit({ type: 'warning', step, message: `the model could not be evaluated: ${(error as Error).message}` })
    return
  }
  emit({ type: 'evaluation', step, ...scoreAnswers(rows, answers) })
  for (const { instruction, input, answer } of answersToShow(rows, answers)) {
    emit({ type: 'sample', step, instruction, ...(input && { input }), output: answer })
  }
}

/** Runs work that follows a run; a failure of it does not fail the run. */
function attempt(problem: string, work: () => void): void {
  try {
    work()
  } catch (error) {
    console.error(`${problem}: ${(error as Error).message}`)
  }
}

function report(logPath: string, htmlPath: string, display: RunDisplay): void {
  const verdict = writeReport(logPath, htmlPath)
  if (verdict !== undefined) display.print(verdict)
  display.print(`report: ${htmlPath}`)
}

/** The command that asks a model, in the user's form: through npm in a clone, else through npx. */
function sampleCommandLine(directory: string): string {
  const start = process.env.npm_lifecycle_event === 'train' ? 'npm run sample --' : 'npx openalpaca-native sample'
  const word = /^[\w./@:+-]+$/.test(directory) ? directory : `'${directory.replaceAll("'", "'\\''")}'`
  return `${start} --model_path ${word} --instruction "..."`
}

/** Writes the model card; a failure of it does not fail the run. */
async function describe(savePath: string, logPath: string, display: RunDisplay): Promise<void> {
  try {
    const written = await writeModelCard(savePath, { logPath })
    display.print(`model card: ${join(savePath, 'README.md')}${written ? '' : ' (not updated: you have changed it)'}`)
  } catch (error) {
    console.error(`cannot write the model card: ${(error as Error).message}`)
  }
}
