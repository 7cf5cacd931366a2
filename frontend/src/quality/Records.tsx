/** How each person judges, with intervals; pausing, asking to qualify again, and excluding, each with its reason. */
import { useInfiniteQuery, useQuery } from '@tanstack/react-query'
import { Users } from 'lucide-react'
import { useState } from 'react'
import { useMembership } from 'src/api/membership'
import { annotatorsQuery, decide, type Measure, qualityQuery, referenceAgreementQuery } from 'src/api/quality'
import type { AnnotatorRow, ReferenceAgreement } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { ExclusionDialog } from 'src/quality/Exclusion'
import { RecordDialog } from 'src/quality/RecordDialog'
import { EstimateFigure, Estimates, Figure } from 'src/ui/charts/Estimate'
import { count, DASH, duration, fixed } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Time } from 'src/ui/widgets/Bits'
import type { Column } from 'src/ui/widgets/DataTable'
import { TextArea } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Menu, type MenuItem } from 'src/ui/widgets/Menu'
import { Card, Facts, Stack } from 'src/ui/widgets/Page'
import { Loaded } from 'src/ui/widgets/States'

type Doing = { row: AnnotatorRow; what: Measure | 'exclude' | 'record' }

export function Records({ slug }: { slug: string }) {
  const { canManage } = useMembership(slug)
  const list = useInfiniteQuery(annotatorsQuery(slug))
  const [doing, setDoing] = useState<Doing | null>(null)
  const close = () => setDoing(null)
  const columns: Column<AnnotatorRow>[] = [
    {
      name: 'name',
      header: t('people.name'),
      cell: (row) => (
        <>
          <strong>{row.name}</strong> {row.paused_at && <Badge tone="warn">{t('people.paused')}</Badge>}{' '}
          {row.excluded_at && <Badge tone="error">{t('people.excluded')}</Badge>}
          {/* An import may name people by their pseudonyms. */}
          {(row.pause_reason || row.pseudonym !== row.name) && (
            <div className="muted small">{row.pause_reason || row.pseudonym}</div>
          )}
        </>
      ),
    },
    {
      name: 'more',
      header: '',
      tools: true,
      cell: (row) => {
        const items: MenuItem[] = [
          { kind: 'action', label: t('records.show'), run: () => setDoing({ row, what: 'record' }) },
        ]
        const item = (what: Doing['what'], label: string): MenuItem => ({
          kind: 'action',
          label,
          run: () => setDoing({ row, what }),
        })
        if (canManage) {
          items.push(
            row.paused_at ? item('resume', t('records.resume')) : item('pause', t('records.pause')),
            item('requalify', t('records.requalify')),
            { kind: 'separator' },
            item('exclude', row.excluded_at ? t('records.readmit') : t('records.exclude')),
          )
        }
        return <Menu label={t('action.menu', { what: row.name })} button={t('action.actions')} items={items} />
      },
    },
    { name: 'votes', header: t('people.votes'), align: 'end', cell: (row) => count(row.record.votes) },
    { name: 'gold', header: t('records.short.gold'), cell: (row) => <Figure of={row.record.gold} /> },
    { name: 'agreement', header: t('records.short.agreement'), cell: (row) => <Figure of={row.record.agreement} /> },
    {
      name: 'consistency',
      header: t('records.short.consistency'),
      cell: (row) => <Figure of={row.record.consistency} />,
    },
    { name: 'left', header: t('records.short.left'), cell: (row) => <Figure of={row.record.left_share} /> },
    { name: 'longer', header: t('records.short.longer'), cell: (row) => <Figure of={row.record.longer_share} /> },
    {
      name: 'reliability',
      header: t('records.reliability'),
      align: 'end',
      cell: (row) => (row.reliability === null ? DASH : fixed(row.reliability)),
    },
    {
      name: 'median',
      header: t('people.median'),
      align: 'end',
      cell: (row) => (row.record.median_seconds === null ? DASH : duration(row.record.median_seconds)),
    },
    {
      name: 'rate',
      header: t('records.rate'),
      align: 'end',
      cell: (row) => (row.record.votes_per_hour === null ? DASH : count(row.record.votes_per_hour)),
    },
    { name: 'last', header: t('people.last'), cell: (row) => <Time at={row.record.last_vote_at} /> },
  ]
  return (
    <Stack>
      <Together slug={slug} />
      <ListCard
        title={t('records.title')}
        showTitle
        note={t('records.note')}
        query={list}
        failed={t('people.failed')}
        columns={columns}
        rowKey={(row) => row.id}
        empty={{ icon: Users, title: t('people.none'), text: t('people.noneText') }}
      />
      <References slug={slug} />
      {doing?.what === 'record' && <RecordDialog slug={slug} row={doing.row} onClose={close} />}
      {doing?.what === 'exclude' && <ExclusionDialog slug={slug} row={doing.row} onClose={close} />}
      {doing && doing.what !== 'record' && doing.what !== 'exclude' && (
        <MeasureDialog slug={slug} row={doing.row} measure={doing.what} onClose={close} />
      )}
    </Stack>
  )
}

function Together({ slug }: { slug: string }) {
  const quality = useQuery(qualityQuery(slug))
  return (
    <Card title={t('records.together')}>
      <Loaded query={quality} what={t('records.togetherFailed')}>
        {(all) => (
          <>
            <Estimates>
              <EstimateFigure label={t('records.gold')} estimate={all.gold} unit="percent" bar />
              <EstimateFigure label={t('records.agreement')} estimate={all.agreement} unit="percent" bar />
              <EstimateFigure label={t('records.consistency')} estimate={all.consistency} unit="percent" bar />
              <EstimateFigure label={t('records.left')} estimate={all.left_share} unit="percent" bar />
              <EstimateFigure label={t('records.longer')} estimate={all.longer_share} unit="percent" bar />
              <EstimateFigure label={t('records.ties')} estimate={all.tie_share} unit="percent" bar />
            </Estimates>
            <Facts
              items={[
                [
                  t('records.liveGold'),
                  t('records.goldCounts', {
                    hidden: all.live_gold.hidden,
                    practice: all.live_gold.practice,
                    qualification: all.live_gold.qualification,
                  }),
                ],
              ]}
            />
          </>
        )}
      </Loaded>
    </Card>
  )
}

type WithReference = ReferenceAgreement['people'][number]

function References({ slug }: { slug: string }) {
  const found = useQuery(referenceAgreementQuery(slug))
  const columns: Column<WithReference>[] = [
    { name: 'name', header: t('people.name'), cell: (row) => row.name },
    { name: 'percent', header: t('agreement.percent'), cell: (row) => <Figure of={row.percent} /> },
    { name: 'kappa', header: t('records.kappa'), cell: (row) => <Figure of={row.kappa} unit="coefficient" /> },
  ]
  return (
    <ListCard
      title={t('records.references')}
      showTitle
      note={found.data && found.data.references > 0 && t('records.referencesNote', { n: found.data.references })}
      query={{ ...found, data: found.data?.people }}
      failed={t('records.togetherFailed')}
      columns={columns}
      rowKey={(row) => row.id}
      empty={{ icon: Users, title: t('records.noReferences'), text: t('records.noReferencesText') }}
    />
  )
}

type MeasureProps = { slug: string; row: AnnotatorRow; measure: Measure; onClose: () => void }

function MeasureDialog({ slug, row, measure, onClose }: MeasureProps) {
  const [reason, setReason] = useState('')
  const act = useWrite(slug, () => decide(slug, row.id, measure, reason.trim()), onClose)
  return (
    <FormDialog
      title={t(`records.${measure}Named`, { name: row.name })}
      submit={t(`records.${measure}`)}
      busy={act.isPending}
      error={act.error}
      failed={t('error.action')}
      onSubmit={() => act.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <TextArea
          label={t('adjudicate.reason')}
          help={t(`records.${measure}Help`)}
          rows={2}
          error={errors.reason}
          value={reason}
          onChange={(event) => setReason(event.target.value)}
        />
      )}
    </FormDialog>
  )
}
