/** One result: its question, what it means, claims, charts, tables, and how to get the same numbers again. */
import { useQuery } from '@tanstack/react-query'
import type { ReactNode } from 'react'
import { experimentQuery } from 'src/api/experimentsApi'
import type { ExperimentDetail, ExperimentTable } from 'src/api/schema'
import styles from 'src/training/Experiments.module.css'
import { Claims } from 'src/training/Verdicts'
import { IntervalChart } from 'src/ui/charts/IntervalChart'
import { DASH, duration, exactTime, interval, measured, measuredTogether } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, CopyBox, Hash, Time } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Card, Columns, Facts, Page } from 'src/ui/widgets/Page'
import { Loaded, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useParams } from 'wouter'

export default function ExperimentPage() {
  const { name = '', setting = '' } = useParams()
  const query = useQuery(experimentQuery(name, setting))
  const found = query.data
  return (
    <Page
      title={found?.title ?? t('nav.experiments')}
      heading={found && <span lang="en">{found.title}</span>}
      above={<Link href="/experiments">{t('nav.experiments')}</Link>}
      intro={found && <span lang="en">{found.question}</span>}
    >
      <Loaded query={query} what={t('experiments.oneFailed')} skeleton={<SkeletonBoxes boxes={4} height={200} />}>
        {(result) => (
          <>
            <div className={styles.facts}>
              <Badge>{t(`experiments.setting.${result.setting}`)}</Badge>
              {result.origin === 'here' && <Badge>{t('experiments.here')}</Badge>}
              <span className="muted">
                <Time at={result.finished_at} /> · {t('experiments.took', { time: duration(result.seconds) })}
                {result.seeds.length > 0 && ` · ${t('experiments.seedCount', { n: result.seeds.length })}`}
              </span>
            </div>
            {result.reading.length > 0 && (
              <Card title={t('experiments.reading')}>
                <p lang="en" className={styles.reading}>
                  {result.reading.join(' ')}
                </p>
              </Card>
            )}
            {result.claims.length > 0 && (
              <Card title={t('experiments.claims')} note={t('experiments.claimsNote')}>
                <Claims claims={result.claims} />
              </Card>
            )}
            {result.charts.length > 0 && (
              <Columns width={460}>
                {result.charts.map((chart) => (
                  <Card key={chart.title}>
                    <IntervalChart chart={chart} />
                  </Card>
                ))}
              </Columns>
            )}
            {result.tables.map((table) => (
              <Card
                key={table.title}
                flush
                title={<span lang="en">{table.title}</span>}
                note={table.note && <span lang="en">{table.note}</span>}
              >
                <div lang="en">
                  <DataTable
                    caption={table.title}
                    columns={columnsOf(table)}
                    rows={table.rows.map((cells, index) => ({ cells, index }))}
                    rowKey={({ index }) => String(index)}
                  />
                </div>
              </Card>
            ))}
            <Provenance result={result} />
          </>
        )}
      </Loaded>
    </Page>
  )
}

type Cells = ExperimentTable['rows'][number]

/** Numbers stand at the end of their column; a column of words may wrap. */
function columnsOf({ columns, rows }: ExperimentTable): Column<{ cells: Cells }>[] {
  return columns.map(({ key, label, unit }) => {
    const words = rows.some((row) => typeof row[key] === 'string')
    return {
      name: key,
      header: unit ? `${label}, ${unit}` : label,
      align: words ? undefined : 'end',
      cell: ({ cells }) => <Cell of={cells[key] ?? null} />,
    }
  })
}

function Cell({ of }: { of: Cells[string] }) {
  if (of === null) return <span className="muted">{DASH}</span>
  if (typeof of === 'string') return <>{of}</>
  if (typeof of === 'number') return <>{measured(of)}</>
  const [value = '', low = '', high = ''] = measuredTogether([of.value, of.low, of.high])
  return (
    <>
      {value} <span className="muted">{interval(low, high)}</span>
      <span className={styles.rests}>{t('estimate.n', { n: of.n })}</span>
    </>
  )
}

function Provenance({ result }: { result: ExperimentDetail }) {
  const { commit, machine, versions, models, data, config } = result.provenance
  const facts: [string, ReactNode][] = [
    [t('experiments.measured'), exactTime(result.finished_at)],
    [t('experiments.commit'), <code key="commit">{commit}</code>],
    ...(result.seeds.length > 0
      ? [[t('experiments.seeds'), result.seeds.join(', ')] satisfies [string, ReactNode]]
      : []),
    ...named(t('experiments.machine'), machine, (value) => plain(value)),
    ...named(t('experiments.versions'), versions, (version) => version),
    ...named(t('experiments.models'), models, (sum) => <Hash value={sum} />),
    ...named(t('experiments.data'), data, (sum) => <Hash value={sum} />),
  ]
  return (
    <Card title={t('experiments.provenance')} note={t('experiments.provenanceNote')}>
      <CopyBox text={result.command} label={t('experiments.again')} wrap />
      <Facts items={facts} />
      {Object.keys(config).length > 0 && (
        <details className={styles.config}>
          <summary>{t('experiments.config')}</summary>
          <CopyBox text={JSON.stringify(config, null, 2)} label={t('experiments.config')} />
        </details>
      )}
    </Card>
  )
}

/** A fact that is a list of names with something each; none where the list is empty. */
function named<Value>(
  term: string,
  values: Readonly<Record<string, Value>>,
  show: (value: Value) => ReactNode,
): [string, ReactNode][] {
  const entries = Object.entries(values)
  if (entries.length === 0) return []
  const list = (
    <ul className={styles.named} lang="en">
      {entries.map(([name, value]) => (
        <li key={name}>
          <span className="muted">{name}</span> {show(value)}
        </li>
      ))}
    </ul>
  )
  return [[term, list]]
}

const plain = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))
