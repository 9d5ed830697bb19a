import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'

// Bold text is wider, and a browser's font may be wider than ours: the limits allow for both.
const characterWidth = { title: 8.2, plain: 6.6 }

describe('the charts of the documentation', () => {
  const entries = readdirSync('docs', { recursive: true, encoding: 'utf8' })
  const files = entries.filter((file) => file.endsWith('.svg'))

  test.for(files)('%s keeps its text within the picture and off the dashed line', (file) => {
    const svg = readFileSync(`docs/${file}`, 'utf8')
    const width = Number(/viewBox="0 0 (\d+) /.exec(svg)![1])
    const texts = [
      ...svg.matchAll(/<text(?: class="(\w+)")? x="([\d.]+)" y="[\d.]+"(?: text-anchor="(\w+)")?>([^<]*)</g),
    ]
    expect(texts.length).toBeGreaterThan(2)
    const line = Number(/class="mark" x1="([\d.]+)"/.exec(svg)?.[1] ?? -1)
    for (const [, kind, x, anchor, text] of texts) {
      const length = text.length * (kind === 'title' ? characterWidth.title : characterWidth.plain)
      const left = Number(x) - (anchor === 'end' ? length : anchor === 'middle' ? length / 2 : 0)
      expect(left, text).toBeGreaterThanOrEqual(0)
      expect(left + length, text).toBeLessThanOrEqual(width)
      if (line > 0 && kind === undefined) expect(left < line && line < left + length, text).toBe(false)
    }
  })
})
