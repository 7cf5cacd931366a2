import react from '@vitejs/plugin-react'
import { defineConfig } from 'vitest/config'

const API = 'http://127.0.0.1:8000'

export default defineConfig({
  // Django serves the build under its static address; the router's own base stays '/'.
  base: '/static/app/',
  plugins: [react()],
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
