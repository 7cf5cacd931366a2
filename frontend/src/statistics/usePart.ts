import { useState } from 'react'

const PART = 25

/** The first rows of a long list, and the next ones on demand, in the words of `DataTable`. */
export function usePart<Row>(rows: Row[]) {
  const [shown, setShown] = useState(PART)
  return {
    rows: rows.slice(0, shown),
    more: {
      hasNextPage: shown < rows.length,
      isFetchingNextPage: false,
      fetchNextPage: () => setShown(shown + PART),
    },
  }
}
