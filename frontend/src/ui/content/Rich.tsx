/** Model and prompt text as elements. The text is hostile: no HTML of its own lives, nothing is fetched, links are
 * inert until clicked and open apart. */
import type { ComponentProps } from 'react'
import ReactMarkdown, { type Components, type Options } from 'react-markdown'
import rehypeSanitize, { defaultSchema } from 'rehype-sanitize'
import remarkGfm from 'remark-gfm'
import styles from 'src/ui/content/Content.module.css'
import { guardDollars, remarkDollars } from 'src/ui/content/dollarGuard'
import { t } from 'src/ui/i18n/t'
import { visit } from 'unist-util-visit'

/** Plugins for formulas and highlighted code, which come in another chunk. */
export type Typeset = Record<'remark' | 'rehype', NonNullable<Options['rehypePlugins']>>

export type Node = {
  type: string
  tagName?: string
  value?: string
  properties?: Record<string, unknown>
  children?: Node[]
}

/** Before sanitising, which would silently delete both: raw HTML becomes its text, an image its description. */
function rehypeVisible() {
  return (tree: Node) => {
    visit(tree as Parameters<typeof visit>[0], (visited) => {
      const node = visited as unknown as Node
      if (node.type === 'raw') node.type = 'text'
      if (node.type === 'element' && node.tagName === 'img') {
        const alt = String(node.properties?.alt ?? '')
        Object.assign(node, {
          type: 'text',
          value: t('content.image', { alt }),
          tagName: undefined,
          children: undefined,
        })
      }
    })
  }
}

function schema(prefix: string) {
  return {
    ...defaultSchema,
    clobberPrefix: prefix,
    tagNames: defaultSchema.tagNames?.filter((name) => name !== 'img'),
    protocols: { href: ['http', 'https', 'mailto'] },
    attributes: {
      ...defaultSchema.attributes,
      code: [['className', /^language-./, 'math-inline', 'math-display'] as [string, ...(string | RegExp)[]]],
    },
  }
}

function components(prefix: string): Components {
  return {
    h1: ({ node: _, ...rest }) => <h3 {...rest} />,
    h2: ({ node: _, ...rest }) => <h4 {...rest} />,
    h3: ({ node: _, ...rest }) => <h5 {...rest} />,
    h4: ({ node: _, ...rest }) => <h6 {...rest} />,
    h5: ({ node: _, ...rest }) => <h6 {...rest} />,
    pre: ({ node: _, ...rest }) => <pre tabIndex={0} {...rest} />,
    table: ({ node: _, ...rest }) => (
      <div className={styles.table} tabIndex={0}>
        <table {...rest} />
      </div>
    ),
    a: ({ node: _, href, children, ...rest }) => <SafeLink {...rest} href={href} text={children} prefix={prefix} />,
  }
}

type SafeLinkProps = Omit<ComponentProps<'a'>, 'children'> & { text: ComponentProps<'a'>['children']; prefix: string }

function SafeLink({ href, text, prefix, ...rest }: SafeLinkProps) {
  if (href?.startsWith('#')) {
    return (
      <a {...rest} href={`#${prefix}${href.slice(1)}`}>
        {text}
      </a>
    )
  }
  if (!href || !/^(https?:|mailto:)/i.test(href)) return <span>{text}</span>
  return (
    <a {...rest} href={href} target="_blank" rel="noopener noreferrer nofollow">
      {text}
    </a>
  )
}

type RichProps = {
  text: string
  /** Keeps the ids of two panes apart. */
  prefix: string
  typeset: Typeset
}

export function Rich({ text, prefix, typeset }: RichProps) {
  return (
    <div className={styles.text} dir="auto">
      <ReactMarkdown
        remarkPlugins={[remarkGfm, ...typeset.remark, remarkDollars]}
        remarkRehypeOptions={{ clobberPrefix: '', footnoteLabelTagName: 'h6' }}
        // What is trusted runs last: it works on what the schema has let through.
        rehypePlugins={[rehypeVisible, [rehypeSanitize, schema(prefix)], ...typeset.rehype]}
        components={components(prefix)}
      >
        {guardDollars(text)}
      </ReactMarkdown>
    </div>
  )
}
