import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'

const targets = path.join(__dirname, '../../build/CMakeFiles')
const isas = readdirSync(targets).flatMap((name) => /^cpu_(\w+)\.dir$/.exec(name)?.[1] ?? [])

const objectsOf = (isa: string) => {
  return readdirSync(path.join(targets, `cpu_${isa}.dir`), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.o'))
    .map((name) => path.join(targets, `cpu_${isa}.dir`, name))
}

// The linker keeps one body of a weak function for the entire program. If an instruction set's object files contained a
// function that others contain too, say std::vector<int>::push_back, the remaining body might be one that this
// processor cannot run.
describe('the object files of an instruction set', () => {
  it.each(isas)('object files of %s share no function with the rest of the program', (isa) => {
    const objects = objectsOf(isa)
    expect(objects.length).toBeGreaterThan(0)
    const symbols = execFileSync('nm', ['--demangle', '--defined-only', ...objects], { encoding: 'utf8' }).split('\n')
    expect(symbols.some((line) => line.includes(` openalpaca::cpu::${isa}::`))).toBe(true)
    const shared = symbols.filter((line) => / W /.test(line) && !line.includes(`openalpaca::cpu::${isa}::`))
    expect(shared).toEqual([])
  })

  it('object files exist for every instruction set of the processor family', () => {
    const expected = process.arch === 'x64' ? ['avx2', 'avx512_bf16', 'baseline'] : ['baseline']
    expect([...isas].sort()).toEqual(expected)
  })

  it('object files of all instruction sets are compiled from the same files', () => {
    const files = isas.map((isa) =>
      objectsOf(isa)
        .map((file) => path.basename(file))
        .sort(),
    )
    for (const names of files) expect(names).toEqual(files[0])
  })
})
