// Generates src/api/schema.d.ts from ./openapi.json. The input path is written into the output, so it never varies.
import { renameSync, rmSync } from 'node:fs'
import { createClient } from '@hey-api/openapi-ts'

const OUT = 'src/api/generated'

await createClient({ input: './openapi.json', output: { path: OUT }, plugins: ['@hey-api/typescript'] })
renameSync(`${OUT}/types.gen.ts`, 'src/api/schema.d.ts')
rmSync(OUT, { recursive: true })
