/**
 * Spells every flag with underscores, as OpenAlpaca does: `--learning-rate` becomes `--learning_rate`. Values are
 * unchanged, including those that look like a flag.
 * @param takesValue whether the argument after a flag (in its final spelling) is its value
 */
export function normalizeArgv(argv: readonly string[], takesValue: (flag: string) => boolean): string[] {
  const normal: string[] = []
  let isValue = false
  for (const [i, argument] of argv.entries()) {
    if (argument === '--') return [...normal, ...argv.slice(i)]
    const isFlag: boolean = !isValue && argument.startsWith('--')
    const end = argument.includes('=') ? argument.indexOf('=') : argument.length
    const flag = `--${argument.slice(2, end).replaceAll('-', '_')}`
    normal.push(isFlag ? flag + argument.slice(end) : argument)
    isValue = isFlag && end === argument.length && takesValue(flag)
  }
  return normal
}
