import { type LineageNode, layOut, MOST_NODES } from 'src/ui/charts/lineage'
import { expect, test } from 'vitest'

const node = (id: string): LineageNode => ({ id, kind: 'job', kindName: 'Job', name: id, href: `/${id}` })
const edge = (start: string, end: string) => ({ start, end })

test('a box stands after all that it came of', () => {
  const edges = [edge('data', 'reward'), edge('base', 'ppo'), edge('reward', 'ppo'), edge('ppo', 'policy')]
  const { placed } = layOut(['policy', 'ppo', 'reward', 'base', 'data'].map(node), edges)
  const x = Object.fromEntries(placed.map(({ id, x }) => [id, x]))
  for (const { start, end } of edges) expect(x[start]).toBeLessThan(x[end] ?? 0)
  // What came of nothing stands beside what it goes into.
  expect(x.base).toBe(x.reward)
  expect(x.data).toBe(0)
})

test('no two boxes meet', () => {
  const { placed } = layOut(['a', 'b', 'c', 'd'].map(node), [edge('a', 'c'), edge('b', 'c'), edge('a', 'd')])
  expect(new Set(placed.map(({ x, y }) => `${x} ${y}`)).size).toBe(4)
})

test('a ring, which no lineage has, ends all the same, and too many boxes are counted', () => {
  expect(layOut(['a', 'b'].map(node), [edge('a', 'b'), edge('b', 'a')]).placed).toHaveLength(2)
  const many = Array.from({ length: MOST_NODES + 5 }, (_, n) => node(`n${n}`))
  expect(layOut(many, []).hidden).toBe(5)
})
