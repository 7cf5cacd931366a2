/** What the job would take, said while it is put together. */
import type { UseQueryResult } from '@tanstack/react-query'
import type { ReactNode } from 'react'
import { fieldErrors } from 'src/api/errors'
import type { JobEstimate } from 'src/api/schema'
import styles from 'src/training/NewJob.module.css'
import { bytes, count, DASH, duration, short } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Card } from 'src/ui/widgets/Page'
import { errorMessage, Notice, Skeleton } from 'src/ui/widgets/States'

type EstimateProps = {
  query: UseQueryResult<JobEstimate>
  ready: boolean
  /** Inputs that are missing, each as a sentence. */
  lacking: string[]
  faults: number
  jobs: number
  children: ReactNode
}

export function EstimateCard({ query, ready, lacking, faults, jobs, children }: EstimateProps) {
  const refused = ready && query.isError
  return (
    <Card title={t('estimate.title')} note={t('estimate.note')}>
      <div aria-live="polite" aria-busy={query.isFetching} className={styles.estimate}>
        {lacking.map((text) => (
          <Notice key={text} tone="warn">
            {text}
          </Notice>
        ))}
        {faults > 0 && <Notice tone="warn">{t('newJob.fix', { n: faults })}</Notice>}
        {refused && (
          <Notice tone="error">
            {t('estimate.refused')} {Object.keys(fieldErrors(query.error)).length === 0 && errorMessage(query.error)}
          </Notice>
        )}
        {ready && !refused && !query.data && <Skeleton rows={5} />}
        {ready && !refused && query.data && <Figures estimate={query.data} jobs={jobs} stale={query.isFetching} />}
      </div>
      {children}
    </Card>
  )
}

function Figures({ estimate, jobs, stale }: { estimate: JobEstimate; jobs: number; stale: boolean }) {
  const { steps, iterations, examples, dropped, tokens, memory_bytes, seconds, basis, notes } = estimate
  const number = (value: number | null) => (value === null ? DASH : count(value))
  const rows: [string, string, string | undefined][] = [
    ...(steps === null ? [] : [[t('estimate.steps'), number(steps), basis.steps] satisfies [string, string, unknown]]),
    ...(iterations === null || iterations === steps
      ? []
      : [[t('estimate.iterations'), number(iterations), undefined] satisfies [string, string, unknown]]),
    [
      t('estimate.examples'),
      dropped ? t('estimate.dropped', { kept: number(examples), n: dropped }) : number(examples),
      steps === null ? basis.steps : undefined,
    ],
    [t('estimate.tokens'), tokens === null ? DASH : short(tokens), basis.tokens],
    [t('estimate.memory'), bytes(memory_bytes), basis.memory_bytes],
    [t('estimate.time'), seconds === null ? DASH : t('estimate.about', { duration: duration(seconds) }), basis.seconds],
    ...(jobs > 1 && seconds !== null
      ? [
          [
            t('estimate.all', { n: jobs }),
            t('estimate.about', { duration: duration(seconds * jobs) }),
            undefined,
          ] satisfies [string, string, unknown],
        ]
      : []),
  ]
  return (
    <>
      <dl className={styles.figures} data-stale={stale || undefined}>
        {rows.map(([name, value, why]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
            {why && <dd className={styles.basis}>{why}</dd>}
          </div>
        ))}
      </dl>
      {notes.map((note) => (
        <Notice key={note} tone="warn">
          {note}
        </Notice>
      ))}
    </>
  )
}
