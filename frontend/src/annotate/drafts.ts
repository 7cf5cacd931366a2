/** Answers begun and not yet given, per assignment; they survive a reload of the page. */
import { useCallback, useEffect, useState } from 'react'
import type { Task } from 'src/api/schema'
import { type Draft, draftOf, emptyDraft } from 'src/ui/answer/answer'

const PREFIX = 'winnow-draft:'
const KEPT_MS = 7 * 86_400_000

type Kept = { at: number; draft: Draft }

function read(assignment: string): Draft | null {
  try {
    const kept: Kept | null = JSON.parse(localStorage.getItem(PREFIX + assignment) ?? 'null')
    return kept && { ...emptyDraft(), ...kept.draft }
  } catch {
    return null
  }
}

function write(assignment: string, draft: Draft | null): void {
  try {
    if (draft === null) localStorage.removeItem(PREFIX + assignment)
    else localStorage.setItem(PREFIX + assignment, JSON.stringify({ at: Date.now(), draft } satisfies Kept))
  } catch {
    // A full or forbidden store loses the draft at a reload, and nothing else.
  }
}

/** Drafts of tasks that never came back must not stay for ever. */
function prune(): void {
  try {
    for (const name of Object.keys(localStorage).filter((one) => one.startsWith(PREFIX))) {
      const { at } = JSON.parse(localStorage.getItem(name) ?? '{}') as Partial<Kept>
      if (!at || Date.now() - at > KEPT_MS) localStorage.removeItem(name)
    }
  } catch {
    // Nothing to tidy where nothing can be stored.
  }
}

export type Drafts = {
  of: (task: Task) => Draft
  change: (assignment: string, draft: Draft) => void
  /** The answer was given. What was written on a task that is skipped stays, for when it comes back. */
  drop: (assignment: string) => void
}

export function useDrafts(): Drafts {
  const [changed, setChanged] = useState<ReadonlyMap<string, Draft>>(new Map())
  useEffect(prune, [])
  const set = useCallback((assignment: string, draft: Draft | null) => {
    write(assignment, draft)
    setChanged((before) => {
      const after = new Map(before)
      if (draft === null) after.delete(assignment)
      else after.set(assignment, draft)
      return after
    })
  }, [])
  return {
    of: (task) => changed.get(task.assignment) ?? read(task.assignment) ?? draftOf(task.answer),
    change: set,
    drop: useCallback((assignment) => set(assignment, null), [set]),
  }
}
