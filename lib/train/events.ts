import type { Recipe } from './recipe-schema.js'

/** A run starts or resumes from a checkpoint. */
export interface StartEvent {
  /** The kind of event. */
  type: 'start'
  /** Optimizer steps done before: 0, or those of the resumed checkpoint. */
  step: number
  /** ISO 8601. */
  time: string
  /** Every key, with defaults filled in. */
  recipe: Recipe
  /** The number of parameters, and the config.json. */
  model: { parameters: number; config: object }
  /** `peak_flops`: the measured matrix-product rate in operations per second, the base of `utilization`. */
  device: { type: string; name: string; dtype: string; peak_flops: number | null }
  /** Ranks that train together; absent from logs of 0.1.0. */
  world_size?: number
  /** Of this package and of Node.js, by name. */
  versions: Record<string, string>
  /** Optimizer steps of the complete run. */
  total_steps: number
  /** Training instances. */
  train_instances: number
  /** Held-out instances. */
  validation_instances: number
  /** Instances dropped because no label fits into max_length. */
  dropped_instances: number
  /** Instances whose answer is cut at max_length and so lacks the end token; absent from logs of 0.1.0. */
  truncated_instances?: number
  /** Rows of the data set with text in a field that training does not use, by field name. */
  unused_fields: Record<string, number>
  /** Rows of the data set with an empty answer. */
  empty_answers: number
}

/** One optimizer step is done. */
export interface StepEvent {
  /** The kind of event. */
  type: 'step'
  /** Steps done, including this one: 1 to total_steps. */
  step: number
  /** Optimizer steps of the complete run. */
  total_steps: number
  /** Passes over the data so far, as a fraction. */
  epoch: number
  /** Loss of the batch before the update, reduced as the recipe says. */
  loss: number
  /** Share of the labeled tokens whose most likely prediction is correct, 0 to 1. */
  token_accuracy: number
  /** Global norm of the gradient before clipping. */
  grad_norm: number
  /** Learning rate of this step. */
  learning_rate: number
  /** Tokens in the batch. */
  tokens: number
  /** The number of them that are labels. */
  label_tokens: number
  /** Duration of the step. */
  seconds: number
  /** `tokens` divided by `seconds`. */
  tokens_per_second: number
  /** Share of the device's peak that the model's own arithmetic reached, 0 to 1; null if the peak is unknown. */
  utilization: number | null
}

/** The held-out instances were evaluated. */
export interface ValidationEvent {
  /** The kind of event. */
  type: 'validation'
  /** Optimizer steps done. */
  step: number
  /** Mean over the held-out instances, reduced as the recipe says. */
  loss: number
  /** Share of the labeled tokens whose most likely prediction is correct, 0 to 1. */
  token_accuracy: number
}

/** The current weights answered an instruction. */
export interface SampleEvent {
  /** The kind of event. */
  type: 'sample'
  /** Optimizer steps done. */
  step: number
  /** The instruction. */
  instruction: string
  /** Optional context for the instruction. */
  input?: string
  /** The answer. */
  output: string
}

/** A problem that does not end the run, such as a failed sample answer. */
export interface WarningEvent {
  /** The kind of event. */
  type: 'warning'
  /** Optimizer steps done. */
  step: number
  /** The problem, or a setting that may train little, in a sentence. */
  message: string
}

/** A training checkpoint is complete at `path`. */
export interface CheckpointEvent {
  /** The kind of event. */
  type: 'checkpoint'
  /** Optimizer steps done. */
  step: number
  /** Its directory. */
  path: string
  /** Its size; absent from logs of versions before 0.2. */
  bytes?: number
  /** Time to write it. */
  seconds: number
}

/** Full answers were compared with the expected ones, on instructions that were not trained on. */
export interface EvaluationEvent {
  /** The kind of event. */
  type: 'evaluation'
  /** Optimizer steps done. */
  step: number
  /** Instructions answered correctly. */
  correct: number
  /** Instructions asked. */
  total: number
  /** The same by kind of instruction. */
  skills: { skill: string; correct: number; total: number }[]
}

/** The run ended. */
export interface EndEvent {
  /** The kind of event. */
  type: 'end'
  /** Optimizer steps done. */
  step: number
  /** `stopped`: by a signal, after a checkpoint; `failed`: by the error in `message`. */
  reason: 'completed' | 'stopped' | 'failed'
  /** Since the last `start`. */
  seconds: number
  /** Message of the error. */
  message?: string
}

/** An event from the trainer; each is one line of train.jsonl. */
export type TrainEvent =
  | StartEvent
  | StepEvent
  | ValidationEvent
  | SampleEvent
  | WarningEvent
  | CheckpointEvent
  | EvaluationEvent
  | EndEvent

/** A subscriber to the events of a run: the log, TensorBoard, the progress display. */
export interface TrainSubscriber {
  /**
   * Called with every event, in order. An exception at a `start` ends the run; later, the subscriber is removed with a
   * warning.
   */
  handle(event: TrainEvent): void
  /** Releases files and the terminal; no events follow. */
  close(): void
}

/** Passes the events of a run to its subscribers, so that a failing log does not end the run. */
export class Followers {
  private readonly list: TrainSubscriber[]

  constructor(subscribers: readonly TrainSubscriber[] = []) {
    this.list = [...subscribers]
  }

  /** Passes an event to all subscribers, and drops those that throw. */
  readonly emit = (event: TrainEvent): void => {
    for (const subscriber of [...this.list]) {
      try {
        subscriber.handle(event)
      } catch (error) {
        if (event.type === 'start') throw error // no work is lost yet
        this.list.splice(this.list.indexOf(subscriber), 1)
        const message = `a follower of the run gets no further events: ${(error as Error).message}`
        if (this.list.length === 0) process.emitWarning(message)
        this.emit({ type: 'warning', step: event.step, message })
      }
    }
  }
}
