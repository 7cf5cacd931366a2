/** What came of what, drawn from left to right: every box is a link, in reading order; the lines are for the eye only. */
import styles from 'src/ui/charts/Lineage.module.css'
import { type LineageEdge, type LineageNode, layOut, NODE_HEIGHT, NODE_WIDTH, type Placed } from 'src/ui/charts/lineage'
import { t } from 'src/ui/i18n/t'
import { Link } from 'wouter'

type LineageGraphProps = { label: string; nodes: LineageNode[]; edges: LineageEdge[]; here?: string }

export function LineageGraph({ label, nodes, edges, here }: LineageGraphProps) {
  const { placed, width, height, hidden } = layOut(nodes, edges)
  const at = new Map(placed.map((node) => [node.id, node]))
  const drawn = edges.flatMap(({ start, end }) => {
    const from = at.get(start)
    const to = at.get(end)
    return from && to ? [{ key: `${start} ${end}`, path: curve(from, to) }] : []
  })
  return (
    <div>
      <section className={styles.scroll} tabIndex={0} aria-label={label}>
        <div className={styles.canvas} style={{ width, height }}>
          <svg width={width} height={height} aria-hidden="true" className={styles.lines}>
            {drawn.map(({ key, path }) => (
              <path key={key} d={path} />
            ))}
          </svg>
          <ul className={styles.nodes}>
            {placed.map((node) => (
              <li key={node.id} style={{ left: node.x, top: node.y, width: NODE_WIDTH, height: NODE_HEIGHT }}>
                <Link
                  href={node.href}
                  className={`${styles.node} ${styles[node.kind]}`}
                  aria-current={node.id === here ? 'page' : undefined}
                  title={`${node.kindName}: ${node.name}`}
                >
                  <span className={styles.kind}>{node.kindName}</span>
                  <span className={styles.name} dir="auto">
                    {node.name}
                  </span>
                  {node.note && <span className="visually-hidden">, {node.note}</span>}
                </Link>
              </li>
            ))}
          </ul>
        </div>
      </section>
      {hidden > 0 && <p className="muted small">{t('lineage.hidden', { n: hidden })}</p>}
    </div>
  )
}

/** From the middle of a box's end to the middle of the next one's beginning. */
function curve(from: Placed, to: Placed): string {
  const [x, y] = [from.x + NODE_WIDTH, from.y + NODE_HEIGHT / 2]
  const [toX, toY] = [to.x, to.y + NODE_HEIGHT / 2]
  const bend = (toX - x) / 2
  return `M${x},${y} C${x + bend},${y} ${toX - bend},${toY} ${toX},${toY}`
}
