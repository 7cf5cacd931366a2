/** Two unrelated texts of 3,000 words, compared as the annotator's page does. */
import { differences } from 'src/ui/content/diff'

declare global {
  interface Window {
    /** The milliseconds that one comparison takes. */
    compare: () => number
  }
}

const WORDS = 3_000

/** Words drawn by a fixed rule from a vocabulary of its own: hardly two of both texts agree. */
function text(seed: number): string {
  let state = seed
  return Array.from({ length: WORDS }, (_, index) => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648
    return `w${seed}${state % 997}${index % 14 === 13 ? '.' : ''}`
  }).join(' ')
}

const [left, right] = [text(1), text(2)]

window.compare = () => {
  const start = performance.now()
  differences(left, right)
  return performance.now() - start
}
