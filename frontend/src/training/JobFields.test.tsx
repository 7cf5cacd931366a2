import { cleanup, render, screen } from '@testing-library/react'
import type { Field, Method } from 'src/api/schema'
import { JobFields } from 'src/training/JobFields'
import { speak } from 'src/ui/i18n/languages'
import { afterEach, expect, test } from 'vitest'

afterEach(async () => {
  cleanup()
  await speak('en')
})

const epochs: Field = {
  path: 'batch.epochs',
  label: 'Epochs',
  help: 'Passes over the training pairs.',
  unit: '',
  type: 'integer',
  section: 'batch',
  optional: false,
  choices: [],
  choice_help: [],
  low: 1,
  high: null,
  low_excluded: false,
  high_excluded: false,
  default: 2,
}

test('what the engine says is marked as English on a German page, and the rest is German', async () => {
  await speak('de')
  const method = { name: 'dpo', title: 'DPO', fields_shown: [epochs], fields_more: [] } as unknown as Method
  render(
    <JobFields
      method={method}
      base={{ batch: { epochs: 2 } }}
      draft={{}}
      errors={{}}
      changed={new Set()}
      setField={() => {}}
    />,
  )
  expect(screen.getByRole('textbox', { name: 'Epochs' })).toHaveProperty('value', '2')
  expect(screen.getByText('Epochs').lang).toBe('en')
  expect(screen.getByText('Passes over the training pairs.').lang).toBe('en')
  expect(screen.getByText(/Mindestens 1/i).closest('[lang]')).toBe(document.documentElement)
})
