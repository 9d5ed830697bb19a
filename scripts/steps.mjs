// The long build steps: a program's output goes to a log file, and the terminal shows its progress.

import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { root } from './toolchain.mjs'

/** A failed step, reported to the user without a stack. */
export class StepError extends Error {}

/** The first error and the lines after it, or the end of the log. */
function tellingPart(logFile) {
  const lines = fs.readFileSync(logFile, 'utf8').trimEnd().split('\n')
  const first = lines.findIndex((line) => /\berror\b/i.test(line))
  return (first < 0 ? lines.slice(-30) : lines.slice(first, first + 30)).map((line) => `  ${line}`).join('\n')
}

/**
 * The estimated remaining time of a step, such as `about 2 min left`; empty while too little is done.
 * @param progress as make or ninja print it: `[ 25%]` or `[15/60]`
 */
export function timeLeft(progress, seconds) {
  const [, done, total] = /^\[\s*(\d+)(?:%|\/(\d+))\]$/.exec(progress) ?? []
  const share = Number(done) / Number(total ?? 100)
  if (!(share >= 0.05) || seconds < 5) return ''
  const left = (seconds / share) * (1 - share)
  return left < 60
    ? `about ${Math.max(1, Math.round(left / 10)) * 10} s left`
    : `about ${Math.round(left / 60)} min left`
}

let isEndedBySignals = false
/** A command runs in a separate process group, which Ctrl-C does not reach: without this it would continue alone. */
function endOnSignals() {
  if (isEndedBySignals) return
  isEndedBySignals = true
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => process.exit(130))
}

/** Progress messages and subprocesses of a script, under its name. */
export function steps(name) {
  const say = (text) => process.stderr.write(`${name}: ${text}\n`)

  /**
   * Runs a command with its output in a log file, and shows its progress: on a terminal in one changing line, else in
   * occasional lines. A failure is a StepError with the relevant part of the log.
   */
  async function run(what, command, args, logFile, env = {}) {
    fs.mkdirSync(path.dirname(logFile), { recursive: true })
    const log = fs.createWriteStream(logFile)
    const started = Date.now()
    const seconds = () => ((Date.now() - started) / 1000).toFixed(1)
    const terminal = process.stderr.isTTY
    let progress = ''
    let said = progress
    if (!terminal) say(`${what} …`)
    const show = () => {
      const left = timeLeft(progress, (Date.now() - started) / 1000)
      const line = `${what}${progress && ` ${progress}`} ${seconds()} s${left && `, ${left}`}`
      if (terminal)
        process.stderr.write(`\r\x1b[K${name}: ${line.slice(0, (process.stderr.columns || 80) - name.length - 3)}`)
      else if (said !== progress) say(line)
      said = progress
    }

    endOnSignals()
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    for (const stream of [child.stdout, child.stderr]) {
      stream.pipe(log, { end: false })
      stream.on('data', (chunk) => {
        const steps = String(chunk).match(/^\[\s*(\d+%|\d+\/\d+)\]/gm) // as ninja and make print them
        if (steps) progress = steps.at(-1)
      })
    }
    const ticker = setInterval(show, terminal ? 200 : 15_000)
    const stop = () => process.kill(-child.pid) // detached, so that this reaches its children too
    process.once('exit', stop)
    const reason = await new Promise((resolve) => {
      child.once('error', (error) => resolve(error.message))
      child.once('close', (code, signal) =>
        resolve(code === 0 ? '' : `${path.basename(command)} ended with ${signal ?? code}`),
      )
    })
    process.removeListener('exit', stop)
    clearInterval(ticker)
    await new Promise((resolve) => log.end(resolve))
    if (terminal) process.stderr.write('\r\x1b[K')
    if (reason)
      throw new StepError(`${what} failed: ${reason}\n${tellingPart(logFile)}\nThe whole log is in ${logFile}`)
    say(`${what}: done in ${seconds()} s`)
  }

  return { say, run }
}
