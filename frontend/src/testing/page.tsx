/** A page at its address, with a server that answers as told. */
import { QueryClientProvider } from '@tanstack/react-query'
import { render } from '@testing-library/react'
import type { ReactElement } from 'react'
import { newQueryClient } from 'src/api/queries'
import { Route, Router } from 'wouter'
import { memoryLocation } from 'wouter/memory-location'

/** `path` may carry a query; the route, if none is given, is the path itself with the project's slug `p`. */
export function openPage(
  path: string,
  screen: ReactElement,
  route = path.replace(/\?.*/, '').replace('/p/', '/:slug/'),
) {
  const location = memoryLocation({ path, record: true })
  const view = render(
    <QueryClientProvider client={newQueryClient()}>
      <Router hook={location.hook} searchHook={location.searchHook}>
        <Route path={route}>{screen}</Route>
      </Router>
    </QueryClientProvider>,
  )
  return { ...view, address: () => location.history.at(-1) ?? '' }
}
