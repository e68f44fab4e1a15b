// Lints AsyncAPI documents: `npm run asyncapi -- <file>...`. The parser is the one by which `asyncapi validate` judges;
// the whole CLI is 1.4 GB, with a web studio in it, and asks for Node.js 24.
import { readFileSync } from 'node:fs'
import { Parser } from '@asyncapi/parser'

const rules = {
  'asyncapi-latest-version': 'off' // 3.0 is meant: what 3.1 adds are bindings for ROS 2
}
const parser = new Parser({ ruleset: { rules } })
for (const file of process.argv.slice(2)) {
  const { diagnostics } = await parser.parse(readFileSync(file, 'utf8'), { source: file })
  for (const { range, code, path, message } of diagnostics) {
    console.error(`${file}:${range.start.line + 1}: ${code}: ${path.join('.')}: ${message}`)
    process.exitCode = 1
  }
}
