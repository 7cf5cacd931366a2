/** The language of the page and the form that its reader gives to numbers and dates. */

let current = 'en'

/** What `Intl` is told: the language, with the reader's region where the browser names one (en-GB, de-CH). */
export const locale = (): string => current

export function setLocale(tag: string): void {
  current = tag
}

/** A formatter for the locale of the moment. Making one costs more than all that it formats on a page. */
export function perLocale<Formatter>(make: (tag: string) => Formatter): () => Formatter {
  const made = new Map<string, Formatter>()
  return () => {
    const found = made.get(current) ?? make(current)
    made.set(current, found)
    return found
  }
}
