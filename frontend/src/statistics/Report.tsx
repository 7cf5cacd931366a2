/** A card with figures of one report: how they are defined, as a file, and in all the states of a screen. */
import { Download } from 'lucide-react'
import type { ReactNode } from 'react'
import { filePath, type Source } from 'src/api/statistics'
import styles from 'src/statistics/Statistics.module.css'
import { t } from 'src/ui/i18n/t'
import { DownloadLink } from 'src/ui/widgets/Button'
import { Card } from 'src/ui/widgets/Page'
import { Loaded, Skeleton } from 'src/ui/widgets/States'

type ReportQuery<Report> = {
  data: Report | undefined
  error: unknown
  isFetching: boolean
  isPending: boolean
  isPlaceholderData: boolean
  refetch: () => unknown
}

type ReportCardProps<Report> = {
  title: string
  note?: ReactNode
  source: Source
  query: ReportQuery<Report>
  /** What the CSV holds where the report has several figures. */
  table?: string
  /** Lets a table reach the edges. */
  flush?: boolean
  /** What is asked of the report, above its figures. */
  filters?: ReactNode
  children: (report: Report) => ReactNode
}

export function ReportCard<Report extends { definition: string }>(props: ReportCardProps<Report>) {
  const { title, note, source, query, table, flush, filters, children } = props
  return (
    <Card title={title} note={note} flush={flush}>
      {filters && <div className={`${styles.filters} ${flush ? styles.inset : ''}`}>{filters}</div>}
      <Loaded
        query={query}
        what={t('statistics.failed')}
        skeleton={
          <div className={flush ? styles.inset : undefined}>
            <Skeleton rows={6} />
          </div>
        }
      >
        {(report) => (
          <div className={styles.figures} aria-busy={query.isPlaceholderData || undefined}>
            {children(report)}
            <Foot {...{ title, source, table }} definition={report.definition} inset={flush} />
          </div>
        )}
      </Loaded>
    </Card>
  )
}

type FilesProps = { title: string; source: Source; table?: string }
type FootProps = FilesProps & { definition: string; inset?: boolean }

/** The exact numbers, with their definition in the file. */
function Downloads({ title, source, table }: FilesProps) {
  return (
    <>
      {(['csv', 'json'] as const).map((format) => (
        <DownloadLink key={format} look="quiet" small href={filePath(source, format, table)}>
          <Download size={15} aria-hidden="true" />
          <span>
            <span className="visually-hidden">{t('statistics.download', { title })} </span>
            {format.toUpperCase()}
          </span>
        </DownloadLink>
      ))}
    </>
  )
}

/** What the figures are, on demand, and the figures as a file. */
export function Foot({ definition, inset, ...files }: FootProps) {
  return (
    <div className={`${styles.foot} ${inset ? styles.inset : ''}`}>
      <details>
        <summary>{t('statistics.definition')}</summary>
        <p>{definition}</p>
      </details>
      <div className={styles.files}>
        <Downloads {...files} />
      </div>
    </div>
  )
}
