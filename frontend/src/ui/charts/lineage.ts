/** Where the boxes of a lineage stand: each one column after the last that it came of, what came of nothing beside it. */

export type LineageKind = 'source' | 'votes' | 'snapshot' | 'job' | 'model'
export type LineageNode = { id: string; kind: LineageKind; kindName: string; name: string; href: string; note?: string }
export type LineageEdge = { start: string; end: string }
export type Placed = LineageNode & { x: number; y: number }

// Six columns, from an import to a model, fit into a page of 1440 px.
export const NODE_WIDTH = 156
export const NODE_HEIGHT = 52
const GAP_X = 32
const GAP_Y = 14
/** More than so many boxes nobody can follow: the nearest are drawn, and the lists below have all. */
export const MOST_NODES = 60

export type Layout = { placed: Placed[]; width: number; height: number; hidden: number }

export function layOut(nodes: LineageNode[], edges: LineageEdge[]): Layout {
  const shown = nodes.slice(0, MOST_NODES)
  const columns = columnsOf(shown, edges)
  const rows: number[] = []
  const placed = shown
    .map((node, order) => ({ node, order, column: columns.get(node.id) ?? 0 }))
    .sort((one, other) => one.column - other.column || one.order - other.order)
    .map(({ node, column }) => {
      const row = rows[column] ?? 0
      rows[column] = row + 1
      return { ...node, x: column * (NODE_WIDTH + GAP_X), y: row * (NODE_HEIGHT + GAP_Y), column }
    })
  const most = Math.max(1, ...rows)
  const height = most * (NODE_HEIGHT + GAP_Y) - GAP_Y
  return {
    // Each column in the middle of the height, so that lines run level where they can.
    placed: placed.map(({ column, ...node }) => ({
      ...node,
      y: node.y + ((most - (rows[column] ?? 0)) * (NODE_HEIGHT + GAP_Y)) / 2,
    })),
    width: Math.max(1, rows.length) * (NODE_WIDTH + GAP_X) - GAP_X,
    height,
    hidden: nodes.length - shown.length,
  }
}

/**
 * The longest way to each node; a node without parents stands as late as it can, else its line would run behind others.
 * A way back, which no lineage has, is not followed.
 */
function columnsOf(nodes: LineageNode[], edges: LineageEdge[]): Map<string, number> {
  const known = new Set(nodes.map(({ id }) => id))
  const parents = new Map<string, string[]>()
  for (const { start, end } of edges) {
    if (known.has(start) && known.has(end)) parents.set(end, [...(parents.get(end) ?? []), start])
  }
  const columns = new Map<string, number>()
  const column = (id: string, way: Set<string>): number => {
    const found = columns.get(id)
    if (found !== undefined) return found
    const before = (parents.get(id) ?? []).filter((parent) => !way.has(parent))
    const next = Math.max(-1, ...before.map((parent) => column(parent, new Set([...way, id])))) + 1
    columns.set(id, next)
    return next
  }
  for (const { id } of nodes) column(id, new Set([id]))
  for (const { id } of nodes.filter((node) => !parents.has(node.id))) {
    const after = [...parents].filter(([, from]) => from.includes(id)).map(([child]) => columns.get(child) ?? 0)
    if (after.length > 0) columns.set(id, Math.min(...after) - 1)
  }
  return columns
}
