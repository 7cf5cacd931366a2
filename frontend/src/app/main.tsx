import 'src/ui/base.css'
import { QueryClientProvider } from '@tanstack/react-query'
import { StrictMode } from 'react'
import { createRoot } from 'react-dom/client'
import { newQueryClient } from 'src/api/queries'
import { App } from 'src/app/App'
import { applyTheme, readTheme } from 'src/app/theme'
import { applyTextSize, readTextSize } from 'src/ui/textSize'

applyTheme(readTheme())
applyTextSize(readTextSize())
const root = document.getElementById('root')
if (!root) throw new Error('index.html has no #root')
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={newQueryClient()}>
      <App />
    </QueryClientProvider>
  </StrictMode>,
)
