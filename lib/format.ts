/** Formats seconds for users: `4.2 s`, `3 min 05 s`, `2 h 14 min`. */
export function formatDuration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  const pad = (value: number) => String(value).padStart(2, '0')
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${pad(whole % 60)} s`
  const minutes = Math.round(seconds / 60)
  return `${Math.floor(minutes / 60)} h ${pad(minutes % 60)} min`
}

/** Formats a count in about three digits: `950`, `12.3k`, `3.43B`. */
export function formatCount(value: number): string {
  const units = ['', 'k', 'M', 'B', 'T']
  let unit = 0
  let scaled = value
  while (Math.abs(scaled) >= 999.5 && unit < units.length - 1) {
    scaled /= 1000
    unit++
  }
  return unit === 0 ? String(Math.round(scaled)) : `${Number(scaled.toPrecision(3))}${units[unit]}`
}

/** Formats a measured value in four digits; below a thousandth as `2e-5`. */
export function formatNumber(value: number): string {
  const magnitude = Math.abs(value)
  if (magnitude >= 10_000) return formatCount(value)
  if (magnitude > 0 && magnitude < 1e-3) return Number(value.toPrecision(3)).toExponential()
  return String(Number(value.toPrecision(4)))
}

/** Formats a fraction from 0 to 1 as a percentage. */
export function formatPercent(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}

/**
 * Replaces control characters other than tab and line break with pictures (␛): text from a model or a data set must not
 * control the terminal.
 */
export function forTerminal(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]/gu, (character) => {
    const code = character.charCodeAt(0)
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : '\ufffd'
  })
}

/** Text from a file for an error message, of bounded length and without control characters. */
export function forError(text: string): string {
  const short = text.length > 300 ? `${text.slice(0, 300)}…` : text
  return short.replace(/\p{C}/gu, '?')
}

/** Formats a number of bytes in powers of ten, as for disks: `13.5 GB`. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'KB', 'MB', 'GB', 'TB', 'PB']
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(bytes, 1)) / 3)))
  return `${power === 0 ? bytes : (bytes / 1000 ** power).toFixed(1)} ${units[power]}`
}
