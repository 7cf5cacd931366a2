/** One person's record: over time, on gold by side, and the last votes. */
import { useQuery } from '@tanstack/react-query'
import { annotatorQuery } from 'src/api/quality'
import type { AnnotatorDetail, AnnotatorRow } from 'src/api/schema'
import { choiceText, pointText, rankingText } from 'src/ui/answer/answer'
import { Figure } from 'src/ui/charts/Estimate'
import { count, DASH, duration } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Time } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { Card, Facts } from 'src/ui/widgets/Page'
import { Loaded } from 'src/ui/widgets/States'

type Bucket = AnnotatorDetail['buckets'][number]
type Last = AnnotatorDetail['votes'][number]

const bucketColumns = (): Column<Bucket>[] => [
  { name: 'to', header: t('records.until'), cell: (row) => <Time at={row.ended_at} /> },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: (row) => count(row.votes) },
  { name: 'gold', header: t('records.gold'), cell: (row) => <Figure of={row.gold} /> },
  { name: 'agreement', header: t('records.agreement'), cell: (row) => <Figure of={row.agreement} /> },
  {
    name: 'median',
    header: t('people.median'),
    align: 'end',
    cell: (row) => (row.median_seconds === null ? DASH : duration(row.median_seconds)),
  },
]

function answerOf({ choice, scale, ranking }: Last['answer']): string {
  if (choice) return choiceText(choice)
  if (ranking) return rankingText(ranking)
  return scale ? pointText(scale, 5) : t('answer.rated')
}

const voteColumns = (): Column<Last>[] => [
  { name: 'at', header: t('people.last'), cell: (row) => <Time at={row.created_at} /> },
  { name: 'purpose', header: t('records.purpose'), cell: (row) => t(`purpose.${row.purpose}`) },
  { name: 'answer', header: t('adjudicate.vote'), cell: (row) => answerOf(row.answer) },
  {
    name: 'time',
    header: t('records.time'),
    align: 'end',
    cell: (row) => (row.active_ms === null ? DASH : duration(row.active_ms / 1000)),
  },
  { name: 'comparison', header: t('comparisons.one'), cell: (row) => <code className="small">{row.comparison}</code> },
]

export function RecordDialog({ slug, row, onClose }: { slug: string; row: AnnotatorRow; onClose: () => void }) {
  const person = useQuery(annotatorQuery(slug, row.id))
  return (
    <Dialog title={row.name} onClose={onClose} width={980}>
      <Loaded query={person} what={t('people.failed')}>
        {({ record, confusion, buckets, votes }) => (
          <>
            <Facts
              items={[
                [t('records.sideDriven'), <Figure key="side" of={record.side_driven} />],
                [t('records.ties'), <Figure key="ties" of={record.tie_share} />],
                [
                  t('records.skips'),
                  t('records.skipCounts', { skips: record.skips, unsure: record.cannot_judge, flags: record.flags }),
                ],
                ...Object.entries(confusion).map(([right, { left, tie, right: chosenRight }]): [string, string] => [
                  t('records.goldWas', { side: right }),
                  t('records.chosen', { left, tie, right: chosenRight }),
                ]),
              ]}
            />
            {buckets.length > 0 && (
              <Card flush title={t('records.overTime')}>
                <DataTable
                  caption={t('records.overTime')}
                  columns={bucketColumns()}
                  rows={buckets}
                  rowKey={(bucket) => bucket.started_at + bucket.ended_at}
                />
              </Card>
            )}
            {votes.length > 0 && (
              <Card flush title={t('records.lastVotes')}>
                <DataTable
                  caption={t('records.lastVotes')}
                  columns={voteColumns()}
                  rows={votes}
                  rowKey={(vote) => vote.id}
                />
              </Card>
            )}
          </>
        )}
      </Loaded>
    </Dialog>
  )
}
