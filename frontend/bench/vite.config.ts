import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

/** Parts of the application on a page of their own, built as for production: `python -m benchmarks.budgets` measures them. */
export default defineConfig({
  root: 'bench',
  base: './',
  plugins: [react()],
  resolve: { tsconfigPaths: true },
  build: { target: 'es2022', assetsInlineLimit: 0 },
})
