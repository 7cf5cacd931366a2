/** Before each file of tests: English, with the strings of all pages. */
import { researchStrings, speak } from 'src/ui/i18n/languages'

await speak('en')
await researchStrings()
