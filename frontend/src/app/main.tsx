import 'src/ui/base.css'
import { QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { newQueryClient, sessionQuery } from 'src/api/queries'
import { App } from 'src/app/App'
import { preload } from 'src/app/routes'
import { followTheme } from 'src/app/theme'
import { useLanguage } from 'src/app/useLanguage'
import { preferredLanguage, speak } from 'src/ui/i18n/languages'
import { applyTextSize, readTextSize } from 'src/ui/textSize'

/** A page is made anew in another language: strings are also in what components remember. */
function InLanguage() {
  return <App key={useLanguage()} />
}

async function start(root: HTMLElement): Promise<void> {
  const client = newQueryClient()
  // Who is here is asked while the strings come.
  void client.prefetchQuery(sessionQuery())
  preload(window.location.pathname)
  await speak(preferredLanguage()).catch(() => speak('en'))
  createRoot(root).render(
    <StrictMode>
      <QueryClientProvider client={client}>
        <InLanguage />
      </QueryClientProvider>
    </StrictMode>,
  )
}

followTheme()
applyTextSize(readTextSize())
const root = document.getElementById('root')
if (!root) throw new Error('index.html has no #root')
void start(root)
