/** How the texts of a task are shown: formatted, as source, or with their differences; scrolled apart or together. */
import { useState } from 'react'
import { alone } from 'src/annotate/TaskView'
import type { Task } from 'src/api/schema'
import type { Draft } from 'src/ui/answer/answer'
import type { ActionName } from 'src/ui/keys/keymap'
import type { Handlers } from 'src/ui/keys/useKeys'

export type Reading = { source: boolean; locked: boolean; differences: boolean }

type UseReading = { reading: Reading; handlers: Handlers; pressed: Partial<Record<ActionName, boolean>> }

export function useReading(task: Task | null, draft: Draft | null): UseReading {
  const [source, setSource] = useState(false)
  const [locked, setLocked] = useState(false)
  // Differences are asked for once a comparison: the next one is to be read before its words are compared.
  const [marked, setMarked] = useState<string | null>(null)
  const both = task !== null && draft !== null && alone(task, draft) === null && task.completions.length === 2
  const differences = both && marked === task.assignment
  return {
    reading: { source: source && !differences, locked, differences },
    handlers: {
      source: () => {
        setSource(differences || !source)
        setMarked(null)
      },
      differences: both ? () => setMarked(differences ? null : task.assignment) : undefined,
      lock: () => setLocked(!locked),
    },
    pressed: { source: source && !differences, lock: locked, differences },
  }
}
