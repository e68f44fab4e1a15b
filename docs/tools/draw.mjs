// Draws docs/diagrams/*.mmd as SVG and PNG: `npm run draw`, or `make diagrams`. The same sources give the same files:
// ids are fixed, fonts are named and not embedded. drawn.json remembers what was drawn from what.
import { createHash } from 'node:crypto'
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { renderMermaid } from '@mermaid-js/mermaid-cli'
import puppeteer from 'puppeteer'

const FOLDER = new URL('../diagrams/', import.meta.url)
const SCALE = 2 // pixels of the PNG for each unit of the SVG
const mermaidConfig = JSON.parse(readFileSync(new URL('mermaid.json', import.meta.url)))
const dark = `<style>${readFileSync(new URL('dark.css', import.meta.url), 'utf8')}</style>`
const sha256 = (data) => createHash('sha256').update(data).digest('hex')

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--font-render-hinting=none']
})
const drawn = {}
try {
  for (const file of readdirSync(FOLDER).filter((name) => name.endsWith('.mmd')).sort()) {
    const name = basename(file, '.mmd')
    const source = readFileSync(new URL(file, FOLDER), 'utf8')
    drawn[name] = { mmd: sha256(source) }
    for (const format of ['svg', 'png']) {
      const { data } = await renderMermaid(browser, source, format, {
        backgroundColor: 'white', mermaidConfig, svgId: name, fontEmbed: false,
        viewport: { width: 1200, height: 800, deviceScaleFactor: SCALE }
      })
      const picture = format === 'svg' ? Buffer.from(data).toString().replace(/>/, `>${dark}`) : data
      writeFileSync(new URL(`${name}.${format}`, FOLDER), picture)
      drawn[name][format] = sha256(picture)
    }
  }
} finally {
  await browser.close()
}
writeFileSync(new URL('drawn.json', FOLDER), JSON.stringify(drawn, null, 2) + '\n')
console.log(`${Object.keys(drawn).length} diagrams in ${fileURLToPath(FOLDER)}`)
