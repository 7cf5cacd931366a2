/** How much to ask for: what so many pairs and votes would tell, from what is measured, given or assumed. */
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import type { PlanReport } from 'src/api/schema'
import { PLAN_FIELDS, type PlanField, planQuery, planSource } from 'src/api/statistics'
import { ReportCard } from 'src/statistics/Report'
import styles from 'src/statistics/Statistics.module.css'
import { count, fixed, measured } from 'src/ui/format'
import { type Key, t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { TextField } from 'src/ui/widgets/Field'
import { useSearchParams } from 'wouter'

/** Given and shown as percent; the others as they are. */
const SHARES: ReadonlySet<string> = new Set<PlanField>(['win_rate', 'half_width', 'accuracy'])

const isShare = (name: string): boolean => SHARES.has(name) || name === 'agreement'
const shownFigure = (name: string, value: number): string =>
  isShare(name) ? fixed(value * 100, 1) : measured(Number(value.toFixed(3)))

/** What the server is asked, from what was typed; text that is no number goes as it is, for the server to name. */
export function readField(name: PlanField, text: string): string {
  const number = Number(text.trim().replace(',', '.'))
  if (text.trim() === '' || Number.isNaN(number)) return text.trim()
  return String(SHARES.has(name) ? Number((number / 100).toPrecision(12)) : number)
}

export function PowerPlan({ slug }: { slug: string }) {
  const [search, setSearch] = useSearchParams()
  const [typed, setTyped] = useState(() =>
    Object.fromEntries(PLAN_FIELDS.map((name) => [name, search.get(name) ?? ''])),
  )
  const asked = Object.fromEntries(
    PLAN_FIELDS.map((name) => [name, readField(name, search.get(name) ?? '')]).filter(([, value]) => value !== ''),
  )
  const source = planSource(slug, asked)
  const report = useQuery(planQuery(source))
  const errors = fieldErrors(report.error)
  /** What stands in for a field that is left empty. */
  const inUse = (name: PlanField): string | undefined => {
    const figure = report.data?.figures.find((one) => one.name === name)
    return figure && shownFigure(name, figure.value)
  }
  const submit = () =>
    setSearch((params) => {
      for (const name of PLAN_FIELDS) {
        const text = typed[name]?.trim()
        if (text) params.set(name, text)
        else params.delete(name)
      }
      return params
    })
  return (
    <ReportCard
      title={t('plan.title')}
      note={t('plan.note')}
      source={source}
      query={report}
      filters={
        <form
          className={styles.form}
          noValidate
          onSubmit={(event) => {
            event.preventDefault()
            submit()
          }}
        >
          {PLAN_FIELDS.map((name) => (
            <TextField
              key={name}
              label={t(`plan.${name}`)}
              unit={isShare(name) ? '%' : name === 'icc' ? '0–1' : undefined}
              inputMode="decimal"
              placeholder={inUse(name)}
              error={errors[name]}
              value={typed[name]}
              onChange={(event) => setTyped({ ...typed, [name]: event.target.value })}
            />
          ))}
          <Button type="submit" look="primary" busy={report.isFetching}>
            {t('plan.submit')}
          </Button>
        </form>
      }
    >
      {(found) => <Lines report={found} />}
    </ReportCard>
  )
}

type Line = PlanReport['lines'][number]

const lineColumns = (): Column<Line>[] => [
  { name: 'sentence', header: t('plan.gives'), wrap: true, cell: ({ sentence }) => sentence },
  { name: 'pairs', header: t('plan.pairs'), align: 'end', cell: ({ pairs }) => count(pairs) },
  { name: 'each', header: t('plan.votesPerPair'), align: 'end', cell: (line) => measured(line.votes_per_pair) },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: ({ votes }) => count(votes) },
  { name: 'prompts', header: t('nav.prompts'), align: 'end', cell: ({ prompts }) => count(prompts) },
]

const NAMES: Record<string, Key> = {
  win_rate: 'plan.win_rate',
  half_width: 'plan.half_width',
  accuracy: 'plan.accuracy',
  systems: 'plan.systems',
  pairs_per_prompt: 'plan.pairs_per_prompt',
  icc: 'plan.icc',
  agreement: 'advice.agreement',
}

function Lines({ report: { lines, figures } }: { report: PlanReport }) {
  return (
    <>
      <DataTable caption={t('plan.title')} columns={lineColumns()} rows={lines} rowKey={({ sentence }) => sentence} />
      <div className={styles.sub}>
        <h3>{t('plan.restsOn')}</h3>
        <ul className={styles.measures}>
          {figures.map(({ name, value, origin }) => {
            const key = NAMES[name]
            return (
              <li key={name}>
                <span className="muted">{key ? t(key) : name}</span> {shownFigure(name, value)}
                {isShare(name) && ' %'} <span className="muted">({t(`plan.origin.${origin}`)})</span>
              </li>
            )
          })}
        </ul>
      </div>
    </>
  )
}
