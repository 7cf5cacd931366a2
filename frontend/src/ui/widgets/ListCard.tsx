/** A card with a table of server rows, in all its states. */
import type { LucideIcon } from 'lucide-react'
import type { ReactNode } from 'react'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Card } from 'src/ui/widgets/Page'
import { Empty, Loaded, Skeleton } from 'src/ui/widgets/States'

type ListQuery<Row> = {
  data: Row[] | undefined
  error: unknown
  isFetching: boolean
  isPending: boolean
  refetch: () => unknown
  hasNextPage?: boolean
  isFetchingNextPage?: boolean
  fetchNextPage?: () => unknown
}

type ListCardProps<Row> = {
  /** Names the table; shown above it where there is more than one. */
  title: string
  showTitle?: boolean
  note?: ReactNode
  actions?: ReactNode
  query: ListQuery<Row>
  /** What could not be loaded, as a sentence. */
  failed: string
  columns: Column<Row>[]
  rowKey: (row: Row) => string
  empty: { icon: LucideIcon; title: string; text?: ReactNode; action?: ReactNode }
}

export function ListCard<Row>(props: ListCardProps<Row>) {
  const { title, showTitle, note, actions, query, failed, columns, rowKey, empty } = props
  const more =
    query.fetchNextPage === undefined
      ? undefined
      : {
          hasNextPage: query.hasNextPage ?? false,
          isFetchingNextPage: query.isFetchingNextPage ?? false,
          fetchNextPage: query.fetchNextPage,
        }
  return (
    <Card flush title={showTitle && title} note={note} actions={actions}>
      <Loaded
        query={query}
        what={failed}
        skeleton={
          <div style={{ padding: '0 24px' }}>
            <Skeleton rows={6} />
          </div>
        }
      >
        {(rows) =>
          rows.length === 0 ? (
            <Empty icon={empty.icon} title={empty.title} action={empty.action}>
              {empty.text}
            </Empty>
          ) : (
            <DataTable caption={title} columns={columns} rows={rows} rowKey={rowKey} more={more} />
          )
        }
      </Loaded>
    </Card>
  )
}
