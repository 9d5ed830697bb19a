/** An error that programs can distinguish by `code`; its message says what is wrong and what to do. */
export class OpenAlpacaError extends Error {
  constructor(
    /** The kind of failure, such as `INVALID_CONFIG`; docs/api.md lists them. */
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

/** A recipe, a flag or a DeepSpeed file with an unknown key or an invalid value. */
export class RecipeError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('INVALID_RECIPE', message, options)
  }
}

/**
 * A loss or gradient that is not finite, with the weights as they were before the step; the logits of a generation; or,
 * with `strict`, weights that the output type cannot hold.
 */
export class NonFiniteError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('NON_FINITE', message, options)
  }
}

/** Ranks of a run that cannot connect (`NO_ANSWER`, `PORT_IN_USE`), that disagree, or one that is lost. */
export class ParallelError extends OpenAlpacaError {}

/** An error of the Hugging Face Hub or of a request: an unknown name, a missing permission, a network that is down. */
export class HubError extends OpenAlpacaError {
  constructor(
    message: string,
    options?: ErrorOptions,
    /** The HTTP status of the Hub's response, if there was one. */
    readonly status?: number,
  ) {
    super('HUB_FAILED', message, options)
  }
}
