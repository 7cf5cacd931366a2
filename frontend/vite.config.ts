import react from '@vitejs/plugin-react'
import type { Plugin } from 'vite'
import { defineConfig } from 'vitest/config'

/** KaTeX offers each font three times; every browser that we build for reads woff2, so the others need not be served. */
const onlyWoff2: Plugin = {
  name: 'only-woff2',
  enforce: 'pre',
  transform: (code, id) =>
    id.includes('katex/dist/') ? code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("\w+"\)/g, '') : undefined,
}

const API = 'http://127.0.0.1:8000'

export default defineConfig({
  // Django serves the build under its static address; the router's own base stays '/'.
  base: '/static/app/',
  plugins: [react(), onlyWoff2],
  resolve: { tsconfigPaths: true },
  build: {
    target: 'es2022',
    // An inlined asset is a data: address, which the content security policy forbids for fonts.
    assetsInlineLimit: 0,
    manifest: true,
  },
  server: { proxy: { '/api': API, '/admin': API } },
  test: {
    environment: 'happy-dom',
    include: ['src/**/*.test.{ts,tsx}'],
    css: false,
    setupFiles: ['src/testing/setup.ts'],
  },
})
