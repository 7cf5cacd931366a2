/** Words one after the other, as a sentence names them: “A, B and C”. */
import { perLocale } from 'src/ui/i18n/locale'

const lists = perLocale((tag) => new Intl.ListFormat(tag, { type: 'conjunction' }))

export const listed = (words: readonly string[]): string => lists().format(words)
