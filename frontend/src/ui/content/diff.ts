/** What two texts do not share, word by word, within a time that nobody notices. */
import { type ChangeObject, diffSentences, diffWordsWithSpace } from 'diff'

/** A piece of one text; `own` where the other text lacks it. */
export type Part = { text: string; own: boolean }
export type Differences = { by: 'word' | 'sentence' | 'nothing'; left: Part[]; right: Part[] }

/** For both ways together: two unrelated texts of 3,000 words took seconds without it. */
const TIMEOUT_MS = 150
/** The words' part of it; sentences are few, so what is left does. */
const WORDS_SHARE = 2 / 3

export function differences(left: string, right: string, timeout = TIMEOUT_MS): Differences {
  const end = performance.now() + timeout
  const words = diffWordsWithSpace(left, right, { timeout: timeout * WORDS_SHARE })
  if (words) return { by: 'word', ...sides(words) }
  const sentences = diffSentences(left, right, { timeout: Math.max(1, end - performance.now()) })
  const shared = sentences?.some(({ added, removed, value }) => !added && !removed && value.trim() !== '')
  if (sentences && shared) return { by: 'sentence', ...sides(sentences) }
  return { by: 'nothing', left: [{ text: left, own: false }], right: [{ text: right, own: false }] }
}

function sides(changes: ChangeObject<string>[]): { left: Part[]; right: Part[] } {
  const side = (other: 'added' | 'removed', own: 'added' | 'removed') =>
    joined(changes.filter((change) => !change[other]).map((change) => ({ text: change.value, own: change[own] })))
  return { left: side('added', 'removed'), right: side('removed', 'added') }
}

/** Neighbours of one kind are one mark, and a space between two marks belongs to them. */
function joined(parts: Part[]): Part[] {
  const done: Part[] = []
  parts.forEach((part, index) => {
    const between = /^[^\S\n]+$/.test(part.text) && done.at(-1)?.own === true && parts[index + 1]?.own === true
    const own = part.own || between
    const last = done.at(-1)
    if (last?.own === own) last.text += part.text
    else done.push({ text: part.text, own })
  })
  return done
}
