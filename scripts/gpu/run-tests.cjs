// Runs the compiled tests of the GPU bundle, each file in a separate process, as vitest does, so that a crash is
// attributed to its file. Arguments: words, one of which a file's name must contain, and --in-process to stay in this
// process, for debuggers.
const { fork } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')

/** The compiled tests below a folder. */
function testFiles(folder) {
  return fs.readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(folder, entry.name)
    return entry.isDirectory() ? testFiles(file) : file.endsWith('.test.js') ? [file] : []
  })
}

const config = {
  root: __dirname,
  setupFiles: [],
  name: undefined,
  passWithNoTests: false,
  testNamePattern: process.env.TEST_NAME ? new RegExp(process.env.TEST_NAME) : undefined,
  allowOnly: true,
  sequence: { seed: 0, hooks: 'stack', setupFiles: 'list' },
  chaiConfig: undefined,
  maxConcurrency: 5,
  testTimeout: Number(process.env.TEST_TIMEOUT ?? 60_000),
  hookTimeout: 60_000,
  retry: 0,
  includeTaskLocation: false,
  tags: [],
  strictTags: false,
}

/** The results of a file's tests: [{ name, state, errors }]. */
async function runFile(file) {
  const { startTests } = require('vitest')
  const runner = { config, importFile: async (name) => void require(name) }
  const results = []
  const visit = (task, names) => {
    const name = [...names, task.name]
    const errors = (task.result?.errors ?? []).map((error) => error.stack ?? `${error.name}: ${error.message}`)
    if (task.type === 'test') {
      const state = task.mode === 'skip' || task.mode === 'todo' ? 'skip' : (task.result?.state ?? 'fail')
      results.push({ name: name.join(' › '), state, errors })
    } else {
      if (errors.length > 0) results.push({ name: name.join(' › '), state: 'fail', errors })
      for (const inner of task.tasks) visit(inner, task.type === 'suite' && task.filepath ? names : name)
    }
  }
  for (const suite of await startTests([{ filepath: file }], runner)) visit(suite, [])
  return results
}

function runInChild(file) {
  return new Promise((resolve) => {
    const child = fork(__filename, ['--child', file], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    let results
    child.on('message', (message) => {
      results = message
    })
    child.on('exit', (code, signal) => {
      const crash = { name: path.relative(__dirname, file), state: 'fail', errors: [`the process ended with ${signal ?? code}`] }
      resolve(results ? (code === 0 ? results : [...results, crash]) : [crash])
    })
  })
}

async function main() {
  const words = process.argv.slice(2).filter((word) => !word.startsWith('--'))
  const inProcess = process.argv.includes('--in-process')
  const files = testFiles(path.join(__dirname, 'test')).filter(
    (file) => words.length === 0 || words.some((word) => file.includes(word)),
  )
  const count = { pass: 0, fail: 0, skip: 0 }
  for (const file of files) {
    const started = performance.now()
    const results = await (inProcess ? runFile(file) : runInChild(file))
    for (const { state, name, errors } of results) {
      count[state]++
      if (state === 'fail') console.log(`FAILED ${name}\n${errors.join('\n')}\n`)
    }
    const failed = results.filter(({ state }) => state === 'fail').length
    const seconds = ((performance.now() - started) / 1000).toFixed(1)
    console.log(`${failed ? '✗' : '✓'} ${path.relative(__dirname, file)}: ${results.length} tests, ${seconds} s`)
  }
  console.log(`${count.pass} passed, ${count.fail} failed${count.skip ? `, ${count.skip} skipped` : ''}`)
  process.exitCode = count.fail > 0 || count.pass === 0 ? 1 : 0
}

if (process.argv[2] === '--child') {
  runFile(process.argv[3]).then((results) => process.send(results, () => process.disconnect()))
} else {
  main()
}
