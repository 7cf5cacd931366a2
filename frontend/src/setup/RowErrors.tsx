/** Rows of a file that were refused: where, what stands there, and what is wrong with it. */
import { ApiError } from 'src/api/errors'
import type { ImportBatch } from 'src/api/schema'
import styles from 'src/setup/Imports.module.css'
import { t } from 'src/ui/i18n/t'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'

type RowError = ImportBatch['errors'][number]

/** The rows that a refused import names. */
export function badRows(error: unknown): RowError[] {
  if (!(error instanceof ApiError) || error.code !== 'bad_rows') return []
  return Array.isArray(error.details.errors) ? (error.details.errors as RowError[]) : []
}

/** What came of an import that was not done: its bad rows, or whatever else was in the way. Nothing is in either way. */
export function NotImported({ error }: { error: unknown }) {
  const rows = badRows(error)
  if (rows.length === 0) return <ErrorPanel what={t('import.failed')} error={error} safe={t('import.nothing')} />
  return (
    <>
      <Notice tone="error" role="alert">
        {t('import.bad', { n: rows.length })} {t('import.nothing')}
      </Notice>
      <RowErrors rows={rows} />
    </>
  )
}

export function RowErrors({ rows }: { rows: RowError[] }) {
  const columns: Column<RowError>[] = [
    { name: 'line', header: t('import.line'), align: 'end', cell: (row) => row.line },
    { name: 'field', header: t('import.field'), cell: (row) => <code>{row.field}</code> },
    { name: 'value', header: t('import.value'), wrap: true, cell: (row) => <code>{row.value}</code> },
    { name: 'message', header: t('import.problem'), wrap: true, cell: (row) => row.message },
  ]
  return (
    <div className={styles.errors}>
      <DataTable
        caption={t('import.problems')}
        columns={columns}
        rows={rows}
        rowKey={(row) => `${row.line}-${row.field}`}
      />
    </div>
  )
}
