/** The data card of a snapshot: where its texts come from, how long they are, and how sure its labels are. */
import { useQuery } from '@tanstack/react-query'
import type { Snapshot, SnapshotCard } from 'src/api/schema'
import { snapshotCardQuery } from 'src/api/snapshotsApi'
import styles from 'src/training/Snapshots.module.css'
import { count, DASH, fixed, percent } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Stat } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Card, Columns, Facts } from 'src/ui/widgets/Page'
import { Loaded, SkeletonBoxes } from 'src/ui/widgets/States'

type DataCardProps = { slug: string; snapshot: Pick<Snapshot, 'id' | 'erased'> }

export function DataCard({ slug, snapshot: { id, erased } }: DataCardProps) {
  const card = useQuery(snapshotCardQuery(slug, id, erased))
  return (
    <Card title={t('dataCard.title')} note={t('dataCard.note')}>
      {erased > 0 && <p className="muted">{t('dataCard.erased', { n: erased })}</p>}
      <Loaded query={card} what={t('dataCard.failed')} skeleton={<SkeletonBoxes boxes={2} height={120} />}>
        {(found) => <Shown card={found} />}
      </Loaded>
    </Card>
  )
}

const length = (value: number | null): string =>
  value === null ? DASH : t('dataCard.characters', { n: Math.round(value) })

function Shown({ card }: { card: SnapshotCard }) {
  return (
    <Columns width={300}>
      <div className={styles.part}>
        <div className={styles.figures}>
          <Stat label={t('funnel.comparisons')} value={count(card.comparisons)} />
          <Stat label={t('funnel.votes')} value={count(card.votes)} />
          <Stat label={t('dataCard.byRuling')} value={count(card.by_ruling)} />
        </div>
        <Facts
          items={[
            [t('dataCard.multiTurn'), count(card.multi_turn)],
            [t('dataCard.prompt'), length(card.mean_prompt)],
            [t('dataCard.chosen'), length(card.mean_chosen)],
            [t('dataCard.rejected'), length(card.mean_rejected)],
            [t('dataCard.longerWins'), card.longer_wins === null ? DASH : percent(card.longer_wins)],
            [t('dataCard.languages'), named(card.languages)],
            [t('dataCard.licences'), named(card.licences)],
            [t('dataCard.categories'), named(card.categories)],
          ]}
        />
      </div>
      <div className={styles.part}>
        <Certainty bins={card.certainty} />
        {card.sources.length > 0 && <Sources sources={card.sources} />}
      </div>
    </Columns>
  )
}

const named = (items: SnapshotCard['languages']): string =>
  items.map(({ name, n }) => `${name || t('dataCard.unnamed')} ${count(n)}`).join(' · ') || DASH

/** How sure the labels are, as bars with their numbers. */
function Certainty({ bins }: { bins: SnapshotCard['certainty'] }) {
  const most = Math.max(1, ...bins.map(({ n }) => n))
  return (
    <div>
      <h3 className={styles.partTitle}>{t('dataCard.certainty')}</h3>
      <ul className={styles.bars}>
        {bins.map(({ low, high, n }) => (
          <li key={low}>
            <span className="tabular">{`${fixed(low, 1)}–${fixed(high, 1)}`}</span>
            <span className={styles.bar} aria-hidden="true">
              <i className={styles.filled} style={{ width: `${(100 * n) / most}%` }} />
            </span>
            <span className="tabular">{count(n)}</span>
          </li>
        ))}
      </ul>
    </div>
  )
}

type Pair = SnapshotCard['sources'][number]

const columns = (): Column<Pair>[] => [
  { name: 'chosen', header: t('dataCard.won'), cell: ({ chosen }) => chosen || DASH },
  { name: 'rejected', header: t('dataCard.lost'), cell: ({ rejected }) => rejected || DASH },
  { name: 'n', header: t('snapshot.preferencesColumn'), align: 'end', cell: ({ n }) => count(n) },
]

function Sources({ sources }: { sources: Pair[] }) {
  return (
    <div>
      <h3 className={styles.partTitle}>{t('dataCard.sources')}</h3>
      <DataTable
        caption={t('dataCard.sources')}
        columns={columns()}
        rows={sources}
        rowKey={({ chosen, rejected }) => JSON.stringify([chosen, rejected])}
      />
    </div>
  )
}
