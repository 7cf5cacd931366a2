/** The boxes and lines of a lineage, from what the server says of a model or of a snapshot. */
import type { Brought, LineageJob, LineageLink, LineageModel, LineageSnapshot } from 'src/api/schema'
import type { LineageEdge, LineageNode } from 'src/ui/charts/lineage'
import { type Key, t } from 'src/ui/i18n/t'

type Graph = { nodes: LineageNode[]; edges: LineageEdge[] }
type Rows = { snapshots: LineageSnapshot[]; jobs: LineageJob[]; models: LineageModel[]; links: LineageLink[] }

/** Jobs that only registered what another one made are left out: the model beside them says it. */
export function rowsGraph(slug: string, { snapshots, jobs, models, links }: Rows): Graph {
  const leads = new Set(links.map(({ start }) => start))
  return {
    nodes: [
      ...models.map((model): LineageNode => {
        const isReward = model.kind === 'reward'
        return {
          id: model.id,
          kind: 'model',
          kindName: t(isReward ? 'model.kind.reward' : 'model.kind.policy'),
          name: model.name,
          href: `/r/${slug}/policies/${model.id}`,
        }
      }),
      ...jobs
        .filter((job) => job.method !== 'convert' || leads.has(job.id))
        .map(
          (job): LineageNode => ({
            id: job.id,
            kind: 'job',
            kindName: t('lineage.job', { n: job.number }),
            name: job.title || job.method,
            href: `/r/${slug}/jobs/${job.id}`,
            note: t(`status.${job.status}`),
          }),
        ),
      ...snapshots.map(
        (snapshot): LineageNode => ({
          id: snapshot.id,
          kind: 'snapshot',
          kindName: t('snapshot.title', { number: snapshot.number }),
          name: snapshot.name || t('snapshot.title', { number: snapshot.number }),
          href: `/r/${slug}/snapshots/${snapshot.id}`,
        }),
      ),
    ],
    edges: links,
  }
}

const SOURCES: Record<Brought['kind'], Key> = {
  import: 'lineage.source.import',
  round: 'lineage.source.round',
  playground: 'lineage.source.playground',
  pairing: 'lineage.source.pairing',
}

/** What is before a snapshot: where its comparisons came from, the prompts, and the votes on them. */
export function sourcesGraph(slug: string, snapshot: string, sources: Brought[], votes?: number): Graph {
  const prompts = `prompts of ${snapshot}`
  const voted = `votes of ${snapshot}`
  const brought = sources.map(
    (source): LineageNode => ({
      id: `${source.id ?? 'pairing'} of ${snapshot}`,
      kind: 'source',
      kindName: t(SOURCES[source.kind]),
      name: source.name || t('lineage.broughtShort', { n: source.comparisons }),
      href: sourceAddress(slug, source),
      note: t('lineage.broughtShort', { n: source.comparisons }),
    }),
  )
  const comparisons = sources.reduce((sum, source) => sum + source.comparisons, 0)
  return {
    nodes: [
      {
        id: voted,
        kind: 'votes',
        kindName: t('lineage.votes'),
        name:
          votes === undefined ? t('lineage.broughtShort', { n: comparisons }) : t('lineage.votesShort', { n: votes }),
        href: `/r/${slug}/comparisons`,
      },
      {
        id: prompts,
        kind: 'source',
        kindName: t('nav.prompts'),
        name: t('lineage.broughtShort', { n: comparisons }),
        href: `/r/${slug}/data`,
      },
      ...brought,
    ],
    edges: [
      ...brought.map(({ id }) => ({ start: id, end: prompts })),
      { start: prompts, end: voted },
      { start: voted, end: snapshot },
    ],
  }
}

function sourceAddress(slug: string, { kind, id }: Brought): string {
  switch (kind) {
    case 'import':
      return `/r/${slug}/imports`
    case 'round':
      return `/r/${slug}/rounds`
    case 'playground':
      return `/r/${slug}/playground?q=${id}`
    case 'pairing':
      return `/r/${slug}/pairing`
  }
}

export function joined(...graphs: Graph[]): Graph {
  return { nodes: graphs.flatMap(({ nodes }) => nodes), edges: graphs.flatMap(({ edges }) => edges) }
}
