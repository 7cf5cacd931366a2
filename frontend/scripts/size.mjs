// Fails when what a route loads, compressed, is over its budget. Reads the Vite manifest of the last build.
// With --json it prints the rows for a program instead.
import { readFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'

const DIST = 'dist'
const manifest = JSON.parse(readFileSync(`${DIST}/.vite/manifest.json`, 'utf8'))
const gz = (file) => gzipSync(readFileSync(`${DIST}/${file}`), { level: 9 }).length

/** All chunks that `key` imports statically, itself included. */
function closure(key, seen = new Set()) {
  if (seen.has(key)) return seen
  seen.add(key)
  for (const next of manifest[key].imports ?? []) closure(next, seen)
  return seen
}

const entry = Object.keys(manifest).find((key) => manifest[key].isEntry)
const base = closure(entry)
const routes = Object.keys(manifest).filter((key) => manifest[key].isDynamicEntry)
const kilobytes = (bytes) => bytes / 1000

/** The strings of one part, in the language that has the longest. */
function strings(part) {
  const files = routes.filter((key) => new RegExp(`^src/ui/i18n/[a-z]{2}${part}\\.ts$`).test(key))
  return Math.max(0, ...files.map((key) => gz(manifest[key].file)))
}

/** The rich chunk is only ever fetched beside this one, so what they share is counted there. */
const beside = closure('src/ui/content/later.ts')

const rows = []
for (const key of routes) {
  if (key.startsWith('src/ui/i18n/')) continue
  const all = new Set([...base, ...closure(key)])
  const has = key === 'src/ui/content/typeset.ts' ? new Set([...base, ...beside]) : base
  const own = [...closure(key)].filter((chunk) => !has.has(chunk))
  const annotator = key.startsWith('src/annotate/')
  const rich = key.startsWith('src/ui/content/')
  // The annotator's budget counts everything the page loads; a researcher's chunk is what it adds. Strings are loaded
  // beside either, in one language.
  const words = annotator ? strings('') : rich ? 0 : strings('Research')
  const js = [...(annotator ? all : own)].reduce((sum, chunk) => sum + gz(manifest[chunk].file), words)
  const sheets = new Set([...all].flatMap((chunk) => manifest[chunk].css ?? []))
  const css = [...sheets].reduce((sum, file) => sum + gz(file), 0)
  rows.push({ route: key, js: kilobytes(js), limit: annotator ? 150 : rich ? 120 : 130, css: kilobytes(css) })
}

if (process.argv.includes('--json')) {
  console.log(JSON.stringify(rows))
  process.exit(0)
}
let failed = false
for (const { route, js, limit, css } of rows) {
  const over = js > limit || css > 20
  failed ||= over
  console.log(
    `${over ? 'OVER' : 'ok  '} ${js.toFixed(1).padStart(6)} of ${limit} kB js  ${css.toFixed(1).padStart(5)} of 20 kB css  ${route}`,
  )
}
process.exit(failed ? 1 : 0)
