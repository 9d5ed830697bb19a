#!/usr/bin/env node
import { reportToLauncher } from '../parallel/launcher.js'
import { errorLine, exitCodeOf } from './failure.js'
import { isHelp, runProgram } from './program.js'
import { paint } from './terminal.js'

// The reader of a pipe may go away (`| head`), and so may a terminal. Work that can be stopped in order then is, as when a
// terminal hangs up; for the rest, there is nobody left to write for.
let isEnding = false
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error
    isEnding ||= process.emit('SIGHUP', 'SIGHUP')
    if (!isEnding) process.exit()
  })
}

runProgram(process.argv.slice(2)).catch((error: unknown) => {
  process.exitCode = exitCodeOf(error)
  if (isHelp(error)) return
  const code = (error as { code?: unknown })?.code
  const report = { code: String(code), line: errorLine(error).replace('error: ', ''), exitCode: exitCodeOf(error) }
  if (!reportToLauncher(report)) process.stderr.write(`${paint(process.stderr, 'red', errorLine(error))}\n`)
  if (process.argv.includes('--verbose') && error instanceof Error) process.stderr.write(`${error.stack}\n`)
})
