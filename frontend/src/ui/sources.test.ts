import ts from 'typescript'
import { expect, test } from 'vitest'

const SOURCES = import.meta.glob<string>(['/src/**/*.{ts,tsx}', '!/src/**/*.test.{ts,tsx}'], {
  query: '?raw',
  import: 'default',
  eager: true,
})

test('no source writes HTML from a string', () => {
  const bad = Object.entries(SOURCES).filter(([, text]) =>
    /innerHTML|outerHTML|insertAdjacentHTML|document\.write/.test(text),
  )
  expect(bad.map(([path]) => path)).toEqual([])
  expect(Object.keys(SOURCES).length).toBeGreaterThan(50)
})

/** Calls of `t` that run when the module is loaded, where they would keep the language of that moment. */
function saidAtLoading(path: string, text: string): string[] {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true)
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node)) return
    if (ts.isCallExpression(node) && node.expression.getText(file) === 't') found.push(`${path}: ${node.getText(file)}`)
    ts.forEachChild(node, visit)
  }
  visit(file)
  return found
}

test('no module says a string while it is loaded', () => {
  expect(Object.entries(SOURCES).flatMap(([path, text]) => saidAtLoading(path, text))).toEqual([])
})

test('only format.ts and the strings themselves know how numbers and dates look', () => {
  const own = /\/ui\/(format|i18n\/\w+)\.ts$/
  const bad = Object.entries(SOURCES).filter(
    ([path, text]) => !own.test(path) && /new Intl\.|\.toLocale(String|Date|Time)|\.toFixed\(\d\)\}/.test(text),
  )
  expect(bad.map(([path]) => path)).toEqual([])
})
