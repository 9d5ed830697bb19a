#!/usr/bin/env node
import '../symbol-dispose.js'
import { constants } from 'node:os'
import { isatty } from 'node:tty'
import { reportToLauncher } from '../parallel/launcher.js'
import { errorLine, exitCodeOf } from './failure.js'
import { isHelp, runProgram } from './program.js'
import { paint } from './terminal.js'

// The reader of a pipe may close it (`| head`), and so may a terminal. Stoppable work then ends in order, as when a
// terminal hangs up; any other work ends at once, since its output has no reader.
let isEnding = false
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error
    isEnding ||= process.emit('SIGHUP', 'SIGHUP')
    if (!isEnding) process.exit()
  })
}

const hasTerminal = [0, 1, 2].some((fd) => isatty(fd))

/** Node.js 20 and 22 abort when they reset a closed terminal, so the signal itself ends the process. */
function endWithTerminal(): void {
  if (!hasTerminal || process.exitCode !== 128 + constants.signals.SIGHUP) return
  process.removeAllListeners('SIGHUP')
  process.kill(process.pid, 'SIGHUP')
}

function report(error: unknown): void {
  process.exitCode = exitCodeOf(error)
  if (isHelp(error)) return
  const { code } = (error ?? {}) as { code?: unknown }
  const line = errorLine(error)
  const isTold = reportToLauncher({ code: String(code), line: line.replace('error: ', ''), exitCode: process.exitCode })
  if (!isTold) process.stderr.write(`${paint(process.stderr, 'red', line)}\n`)
  if (process.argv.includes('--verbose') && error instanceof Error) process.stderr.write(`${error.stack}\n`)
}

runProgram(process.argv.slice(2)).catch(report).finally(endWithTerminal)
