import type { Recipe } from './recipe-schema.js'

/** A run begins, or goes on from a checkpoint. */
export interface StartEvent {
  /** Tells this event from the others. */
  type: 'start'
  /** Optimizer steps done before: 0, or those of the checkpoint that is resumed. */
  step: number
  /** ISO 8601. */
  time: string
  /** Every key, with the defaults filled in. */
  recipe: Recipe
  /** The number of parameters, and the config.json. */
  model: { parameters: number; config: object }
  /** `peak_flops`: measured rate of the matrix product in operations a second, the base of `utilization`. */
  device: { type: string; name: string; dtype: string; peak_flops: number | null }
  /** Ranks that train together; logs written by 0.1.0 lack it. */
  world_size?: number
  /** Of this package and of Node.js, by name. */
  versions: Record<string, string>
  /** Optimizer steps of the whole run. */
  total_steps: number
  /** Instances that are trained on. */
  train_instances: number
  /** Instances that are held out. */
  validation_instances: number
  /** Instances left out because no label fits into max_length. */
  dropped_instances: number
  /** Instances whose answer is cut at max_length, so that they lack the end token; logs written by 0.1.0 lack it. */
  truncated_instances?: number
  /** Rows of the data set in which a field that training does not use holds text, by the field's name. */
  unused_fields: Record<string, number>
  /** Rows of the data set whose answer is empty. */
  empty_answers: number
}

/** One optimizer step is done. */
export interface StepEvent {
  /** Tells this event from the others. */
  type: 'step'
  /** Steps done, this one included: 1 to total_steps. */
  step: number
  /** Optimizer steps of the whole run. */
  total_steps: number
  /** Passes over the data done so far, with fraction. */
  epoch: number
  /** Loss of the batch before the update, reduced as the recipe says. */
  loss: number
  /** Share of the labelled tokens whose most likely prediction is right, 0 to 1. */
  token_accuracy: number
  /** Global norm of the gradient before clipping. */
  grad_norm: number
  /** Learning rate of this step. */
  learning_rate: number
  /** Tokens that went through the model. */
  tokens: number
  /** How many of them were labels. */
  label_tokens: number
  /** What the step took. */
  seconds: number
  /** `tokens` over `seconds`. */
  tokens_per_second: number
  /** Share of the device's peak that the model's own arithmetic reached, 0 to 1; null where the peak is unknown. */
  utilization: number | null
}

/** The held-out instances were evaluated. */
export interface ValidationEvent {
  /** Tells this event from the others. */
  type: 'validation'
  /** Optimizer steps done. */
  step: number
  /** Mean over the held-out instances, reduced as the recipe says. */
  loss: number
  /** Share of the labelled tokens whose most likely prediction is right, 0 to 1. */
  token_accuracy: number
}

/** An instruction was answered with the weights of the moment. */
export interface SampleEvent {
  /** Tells this event from the others. */
  type: 'sample'
  /** Optimizer steps done. */
  step: number
  /** What was asked. */
  instruction: string
  /** The text to do it with, where there is one. */
  input?: string
  /** The answer. */
  output: string
}

/** Something went wrong that the run goes on without, such as a sample answer. */
export interface WarningEvent {
  /** Tells this event from the others. */
  type: 'warning'
  /** Optimizer steps done. */
  step: number
  /** What went wrong, or may train little, in a sentence. */
  message: string
}

/** A training checkpoint lies complete at `path`. */
export interface CheckpointEvent {
  /** Tells this event from the others. */
  type: 'checkpoint'
  /** Optimizer steps done. */
  step: number
  /** Its directory. */
  path: string
  /** Its size; missing in logs of versions before 0.2. */
  bytes?: number
  /** What writing it took. */
  seconds: number
}

/** Whole answers were compared with the expected ones, on instructions that were not trained on. */
export interface EvaluationEvent {
  /** Tells this event from the others. */
  type: 'evaluation'
  /** Optimizer steps done. */
  step: number
  /** Instructions that were answered right. */
  correct: number
  /** Instructions that were asked. */
  total: number
  /** The same by kind of instruction. */
  skills: { skill: string; correct: number; total: number }[]
}

/** The run is over. */
export interface EndEvent {
  /** Tells this event from the others. */
  type: 'end'
  /** Optimizer steps done. */
  step: number
  /** `stopped`: by a signal, after a checkpoint; `failed`: by the error in `message`. */
  reason: 'completed' | 'stopped' | 'failed'
  /** Since the last `start`. */
  seconds: number
  /** Of the error. */
  message?: string
}

/** What the trainer reports; each is one line of train.jsonl. */
export type TrainEvent =
  | StartEvent
  | StepEvent
  | ValidationEvent
  | SampleEvent
  | WarningEvent
  | CheckpointEvent
  | EvaluationEvent
  | EndEvent

/** Something that follows a run: the log, TensorBoard, the progress display. */
export interface TrainSubscriber {
  /** Called with every event, in order. One that throws at a `start` ends the run; later it is left out, with a warning. */
  handle(event: TrainEvent): void
  /** Releases files and the terminal; nothing may follow. */
  close(): void
}

/** Hands the events of a run to those who follow it: no run is lost to its log. */
export class Followers {
  private readonly list: TrainSubscriber[]

  constructor(subscribers: readonly TrainSubscriber[] = []) {
    this.list = [...subscribers]
  }

  readonly emit = (event: TrainEvent): void => {
    for (const subscriber of [...this.list]) {
      try {
        subscriber.handle(event)
      } catch (error) {
        if (event.type === 'start') throw error // nothing is lost yet
        this.list.splice(this.list.indexOf(subscriber), 1)
        const message = `a follower of the run gets no further events: ${(error as Error).message}`
        if (this.list.length === 0) process.emitWarning(message)
        this.emit({ type: 'warning', step: event.step, message })
      }
    }
  }
}
