import { hasWords, t } from 'src/ui/i18n/t'

/** What a job's method is called; a method of a newer server by its name. */
export function methodName(method: string): string {
  const key = `jobs.method.${method}`
  return hasWords(key) ? t(key as 'jobs.method.dpo') : method
}
