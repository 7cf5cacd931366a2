/** Files out: every data set in every format, as links that the browser streams. */
import { useQuery } from '@tanstack/react-query'
import { Download } from 'lucide-react'
import { exportDatasetPath, exportsQuery } from 'src/api/imports'
import type { Dataset } from 'src/api/schema'
import { count, DASH } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { DownloadLink } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { ListCard } from 'src/ui/widgets/ListCard'

const FORMATS = ['jsonl', 'csv', 'parquet'] as const

export function Exports({ slug }: { slug: string }) {
  const list = useQuery(exportsQuery(slug))
  const columns: Column<Dataset>[] = [
    { name: 'name', header: t('exports.dataset'), cell: (row) => <strong>{row.name}</strong> },
    {
      name: 'rows',
      header: t('imports.rows'),
      align: 'end',
      cell: (row) => (row.rows === null ? DASH : count(row.rows)),
    },
    {
      name: 'columns',
      header: t('exports.columns'),
      wrap: true,
      cell: (row) => <span className="muted small">{row.columns.join(', ')}</span>,
    },
    {
      name: 'download',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) => (
        <span style={{ display: 'inline-flex', gap: 6 }}>
          {FORMATS.map((format) => (
            <DownloadLink key={format} small href={exportDatasetPath(slug, row.name, format)}>
              {format.toUpperCase()}
            </DownloadLink>
          ))}
        </span>
      ),
    },
  ]
  return (
    <ListCard
      title={t('exports.title')}
      showTitle
      note={t('exports.note')}
      query={list}
      failed={t('exports.failed')}
      columns={columns}
      rowKey={(row) => row.name}
      empty={{ icon: Download, title: t('exports.none') }}
    />
  )
}
