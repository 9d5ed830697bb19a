/** An error that programs may want to tell apart by `code`; its message says what is wrong and what to do. */
export class OpenAlpacaError extends Error {
  constructor(
    /** What kind of failure it is, such as `INVALID_CONFIG`; docs/api.md lists them. */
    readonly code: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options)
    this.name = new.target.name
  }
}

/** A config.json, or a model configuration, that cannot be used. */
export class ConfigError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_CONFIG', message, options)
  }
}

/** A weight file, an index or a training checkpoint that is missing, cut short, or does not fit the model. */
export class CheckpointError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_CHECKPOINT', message, options)
  }
}

/** A data set that is not a list of instructions, or is empty. */
export class DataError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_DATA', message, options)
  }
}

/** A tokenizer that cannot be read, or does not match the model's vocabulary. */
export class TokenizerError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_TOKENIZER', message, options)
  }
}

/** A recipe, a flag or a DeepSpeed file with a key or a value that is not understood. */
export class RecipeError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_RECIPE', message, options)
  }
}

/**
 * A loss or a gradient that is not finite, and the weights are as they were before the step; the logits of a generation;
 * or, under `strict`, weights that the type they are written in cannot hold.
 */
export class NonFiniteError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('NON_FINITE', message, options)
  }
}

/** Ranks of a run that cannot find each other (`NO_ANSWER`, `PORT_IN_USE`), that disagree, or of which one is lost. */
export class ParallelError extends OpenAlpacaError {}

/** The Hugging Face Hub, or what is asked of it: a name it doesn't know, a missing right, a network that is down. */
export class HubError extends OpenAlpacaError {
  constructor(
    message: string,
    options?: ErrorOptions,
    /** The HTTP status that the Hub answered with, where it answered. */
    readonly status?: number,
  ) {
    super('HUB_FAILED', message, options)
  }
}
