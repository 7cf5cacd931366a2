/** Formulas and highlighted code: the one heavy chunk. Both plugins run on what is sanitised already, and build on it
 * nothing that loads or links. */
import 'katex/dist/katex.min.css'
import bash from 'highlight.js/lib/languages/bash'
import cpp from 'highlight.js/lib/languages/cpp'
import css from 'highlight.js/lib/languages/css'
import go from 'highlight.js/lib/languages/go'
import java from 'highlight.js/lib/languages/java'
import javascript from 'highlight.js/lib/languages/javascript'
import json from 'highlight.js/lib/languages/json'
import python from 'highlight.js/lib/languages/python'
import rust from 'highlight.js/lib/languages/rust'
import sql from 'highlight.js/lib/languages/sql'
import typescript from 'highlight.js/lib/languages/typescript'
import xml from 'highlight.js/lib/languages/xml'
import yaml from 'highlight.js/lib/languages/yaml'
import { createLowlight } from 'lowlight'
import rehypeKatex from 'rehype-katex'
import remarkMath from 'remark-math'
import type { Node, Typeset } from 'src/ui/content/Rich'
import { visit } from 'unist-util-visit'

const grammars = { bash, cpp, css, go, java, javascript, json, python, rust, sql, typescript, xml, yaml }
const lowlight = createLowlight(grammars)

/** rehype-highlight would bundle 37 languages. */
function rehypeHighlight() {
  return (tree: Node) => {
    visit(tree as Parameters<typeof visit>[0], (visited, _, parent) => {
      const node = visited as unknown as Node
      if (node.tagName !== 'code' || (parent as unknown as Node | undefined)?.tagName !== 'pre') return
      const [name = ''] = (node.properties?.className as string[] | undefined) ?? []
      const language = name.replace('language-', '').toLowerCase()
      const text = node.children?.[0]?.value
      if (text !== undefined && lowlight.registered(language)) {
        node.children = lowlight.highlight(language, text).children as Node[]
      }
    })
  }
}

export const typeset: Typeset = {
  remark: [remarkMath],
  rehype: [
    [rehypeKatex, { trust: false, maxExpand: 200, maxSize: 20, strict: 'ignore', errorColor: 'var(--error)' }],
    rehypeHighlight,
  ],
}
