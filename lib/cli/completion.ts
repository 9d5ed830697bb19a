/** Completion scripts for shells, generated from the program's commands and flags. */
import type { Argument, Command, Option } from 'commander'

export const shells = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof shells)[number]

interface Flag {
  /** With its dashes. */
  name: string
  about: string
  takesValue: boolean
  choices: string[]
  /** The kind of value, if there are no choices. */
  value: 'file' | 'directory' | 'other'
}

interface Described {
  name: string
  about: string
  flags: Flag[]
  /** Choices of the first argument; empty if it is a path, or there is none. */
  words: string[]
  takesPaths: boolean
}

/** The script that lets `shell` complete the program's arguments. */
export function completionScript(program: Command, shell: Shell): string {
  const globals = flagsOf(program)
  const commands = program.commands.map((command) => describe(command, globals))
  return { bash, zsh, fish }[shell](program.name(), commands, globals)
}

function describe(command: Command, globals: Flag[]): Described {
  const argument: Argument | undefined = command.registeredArguments[0]
  return {
    name: command.name(),
    about: firstSentence(command.description()),
    flags: [...flagsOf(command), ...globals.filter(({ name }) => name !== '--version')],
    words: argument?.argChoices ?? [],
    takesPaths: argument !== undefined && !argument.argChoices,
  }
}

function flagsOf(command: Command): Flag[] {
  const own = command.options.filter((option) => option.long && !option.hidden).map(flagOf)
  const help: Flag = {
    name: '--help',
    about: 'display help for command',
    takesValue: false,
    choices: [],
    value: 'other',
  }
  return command.parent ? [...own] : [...own, help]
}

function flagOf({ long, flags, description, required, argChoices }: Option): Flag {
  const placeholder = /[<[](.*?)(?:\.\.\.)?[>\]]/.exec(flags)?.[1] ?? ''
  const choices = argChoices ?? (placeholder.includes('|') ? placeholder.split('|') : [])
  const value = placeholder === 'dir' ? 'directory' : /^(file|path)$/.test(placeholder) ? 'file' : 'other'
  return { name: long!, about: firstSentence(description), takesValue: required, choices, value }
}

const firstSentence = (text: string) => text.replace(/\n/g, ' ').replace(/[.;:] .*$|\.$/, '')
const functionName = (program: string) => `_${program.replace(/\W/g, '_')}`
/** A word in single quotes, which all three shells take literally. */
const quote = (text: string) => `'${text.replaceAll("'", '’').replaceAll('\\', '/')}'`

/** Flags are also completed in the spelling with dashes, which the command line accepts too. */
function bash(program: string, commands: Described[], globals: Flag[]): string {
  const values = (flags: Flag[]) =>
    flags
      .filter(({ takesValue, choices }) => takesValue || choices.length > 0)
      .map(({ name, choices, value }) => {
        const files = value === 'directory' ? 'compgen -d -- "$word"' : 'compgen -f -- "$word"'
        const words = choices.length > 0 ? `compgen -W ${quote(choices.join(' '))} -- "$word"` : files
        return `      ${name}) ${value === 'other' && choices.length === 0 ? 'return' : `mapfile -t COMPREPLY < <(${words}); return`} ;;`
      })
  const cases = commands.map(({ name, flags, words, takesPaths }) => {
    const rest = takesPaths ? 'mapfile -t COMPREPLY < <(compgen -f -- "$word"); return' : ''
    const choice =
      words.length > 0 ? `mapfile -t COMPREPLY < <(compgen -W ${quote(words.join(' '))} -- "$word"); return` : rest
    return [
      `  ${name})`,
      '    case $before in',
      ...values(flags),
      '    esac',
      ...(choice ? [`    if [[ $word != -* ]]; then ${choice}; fi`] : []),
      `    flags=${quote(flags.map((flag) => flag.name).join(' '))} ;;`,
    ].join('\n')
  })
  return `# bash completion of ${program}; to have it, put this into ~/.bashrc:  source <(${program} completion bash)
${functionName(program)}() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} command='' flags='' i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    if [[ \${COMP_WORDS[i]} != -* ]]; then command=\${COMP_WORDS[i]}; break; fi
  done
  before=\${before//-/_}; before=\${before/#__/--} # --model-path is --model_path
  case $command in
  '')
    if [[ $word == -* ]]; then flags=${quote(globals.map(({ name }) => name).join(' '))}
    else flags=${quote(commands.map(({ name }) => name).join(' '))}; fi ;;
${cases.join('\n')}
  esac
  if [[ $word == --*[^-]-* ]]; then flags="$flags \${flags//_/-}"; fi
  mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$word")
}
complete -o filenames -F ${functionName(program)} ${program}
`
}

function zsh(program: string, commands: Described[], globals: Flag[]): string {
  const plain = (text: string) => text.replace(/[[\]:]/g, ' ')
  const action = ({ choices, value }: Flag) => {
    if (choices.length > 0) return `(${choices.join(' ')})`
    return { file: '_files', directory: '_files -/', other: ' ' }[value]
  }
  const spec = (flag: Flag) => {
    const tail = flag.takesValue || flag.choices.length > 0 ? `:value:${action(flag)}` : ''
    return `      ${quote(`*${flag.name}[${plain(flag.about)}]${tail}`)}`
  }
  const cases = commands.map(({ name, flags, words, takesPaths }) => {
    const rest = words.length > 0 ? `'1:shell:(${words.join(' ')})'` : takesPaths ? `'*:path:_files'` : ''
    const specs = [...flags.map(spec), ...(rest ? [`      ${rest}`] : [])]
    return `    ${name})\n      _arguments \\\n${specs.join(' \\\n')} ;;`
  })
  return `#compdef ${program}
# zsh completion of ${program}; to have it, put this into ~/.zshrc after compinit:  source <(${program} completion zsh)
${functionName(program)}() {
  local -a commands=(
${commands.map(({ name, about }) => `    ${quote(`${name}:${plain(about)}`)}`).join('\n')}
  )
  if (( CURRENT == 2 )); then
    if [[ $words[2] == -* ]]; then compadd -- ${globals.map(({ name }) => name).join(' ')}
    else _describe command commands; fi
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
${cases.join('\n')}
  esac
}
compdef ${functionName(program)} ${program}
`
}

function fish(program: string, commands: Described[], globals: Flag[]): string {
  const line = (condition: string, ...rest: string[]) =>
    `complete -c ${program} -n ${quote(condition)} ${rest.join(' ')}`
  const flagLine = (condition: string, { name, about, takesValue, choices, value }: Flag) => {
    const argument = choices.length > 0 ? [`-x -a ${quote(choices.join(' '))}`] : []
    const directory = ["-x -a '(__fish_complete_directories)'"]
    const values = argument.length > 0 ? argument : { directory, file: ['-r -F'], other: ['-x'] }[value]
    return line(
      condition,
      `-l ${name.slice(2)}`,
      ...(takesValue || choices.length > 0 ? values : []),
      `-d ${quote(about)}`,
    )
  }
  const lines = [
    `# fish completion of ${program}; to have it:  ${program} completion fish > ~/.config/fish/completions/${program}.fish`,
    `complete -c ${program} -f`,
    ...globals.map((flag) => flagLine('__fish_use_subcommand', flag)),
  ]
  for (const { name, about, flags, words, takesPaths } of commands) {
    const condition = `__fish_seen_subcommand_from ${name}`
    lines.push(line('__fish_use_subcommand', `-a ${name}`, `-d ${quote(about)}`))
    if (words.length > 0) lines.push(line(condition, `-a ${quote(words.join(' '))}`))
    if (takesPaths) lines.push(line(condition, '-F'))
    lines.push(...flags.map((flag) => flagLine(condition, flag)))
  }
  return `${lines.join('\n')}\n`
}
