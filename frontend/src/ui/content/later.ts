/** What follows the first paint in a chunk of its own; the heavier `typeset` comes beside it. */
export { differences } from 'src/ui/content/diff'
export { countFormulas } from 'src/ui/content/dollarGuard'
export { Rich } from 'src/ui/content/Rich'
