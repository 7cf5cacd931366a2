/** A table of server rows: aligned numbers, its own sideways scroll, and the next page on demand. */
import { type ReactNode, useId } from 'react'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import styles from 'src/ui/widgets/DataTable.module.css'

export type Column<Row> = {
  name: string
  header: ReactNode
  cell: (row: Row) => ReactNode
  align?: 'end'
  wrap?: boolean
  /** Buttons and boxes to tick. */
  tools?: boolean
}

export type More = { hasNextPage: boolean; isFetchingNextPage: boolean; fetchNextPage: () => unknown }
type DataTableProps<Row> = {
  caption: string
  columns: Column<Row>[]
  rows: Row[]
  rowKey: (row: Row) => string
  more?: More
}

const isLong = (header: ReactNode): boolean => typeof header === 'string' && header.length > 18

export function DataTable<Row>({ caption, columns, rows, rowKey, more }: DataTableProps<Row>) {
  const id = useId()
  const style = (column: Column<Row>) =>
    [column.align === 'end' && styles.end, column.tools ? styles.tools : column.wrap ? styles.wide : styles.nowrap]
      .filter(Boolean)
      .join(' ')
  return (
    <div>
      <section className={styles.scroll} aria-labelledby={id} tabIndex={0}>
        <table className={styles.table}>
          <caption id={id} className="visually-hidden">
            {caption}
          </caption>
          <thead>
            <tr>
              {columns.map((column) => (
                <th
                  key={column.name}
                  scope="col"
                  className={`${style(column)} ${isLong(column.header) ? styles.long : ''}`}
                >
                  {column.header}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={rowKey(row)}>
                {columns.map((column) => (
                  <td key={column.name} className={style(column)}>
                    {column.cell(row)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      {more?.hasNextPage && (
        <div className={styles.more}>
          <Button small busy={more.isFetchingNextPage} onClick={() => void more.fetchNextPage()}>
            {t('action.more')}
          </Button>
        </div>
      )}
    </div>
  )
}
