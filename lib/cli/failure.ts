import { CommanderError } from 'commander'
import { OpenAlpacaError } from '../errors.js'
import { LaunchError } from '../parallel/launcher.js'

/** An invalid or incomplete command line; the exit code is 2. */
export class UsageError extends OpenAlpacaError {
  constructor(message: string, options?: ErrorOptions) {
    super('USAGE', message, options)
  }
}

/** The exit code of a command that failed with this error. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (error instanceof LaunchError) return error.exitCode
  return error instanceof UsageError ? 2 : 1
}

/** The error in one line, without its name. */
export function errorLine(error: unknown): string {
  const message = error instanceof Error ? error.message || error.name : String(error)
  const line = message
    .replace(/^error: /, '')
    .replace(/\s*\n\s*/g, ' ')
    .trim()
  return `error: ${line}`
}
