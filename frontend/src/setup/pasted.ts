/** Prompts that were pasted as text, as the lines of an import. */

/** A line of three dashes or more stands between prompts that have several lines. */
const RULE = /^[ \t]*-{3,}[ \t]*$/m

/** A prompt a line; or, where a rule is in the text, a prompt between two rules. The same prompt twice is one. */
export function promptsOf(text: string): string[] {
  const clean = text.replaceAll('\r\n', '\n')
  const parts = RULE.test(clean) ? clean.split(new RegExp(RULE, 'gm')) : clean.split('\n')
  return [...new Set(parts.map((part) => part.trim()).filter((part) => part !== ''))]
}

/** Lines of JSON objects are a file's content already. */
export function isJsonLines(text: string): boolean {
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  return lines.length > 0 && lines.every((line) => line.trim().startsWith('{') && line.trim().endsWith('}'))
}

/** A file for the import of prompts, and how many there are in it. */
export function promptFile(text: string, category: string): { file: File; prompts: number } {
  const lines = isJsonLines(text)
    ? text.split('\n').filter((line) => line.trim() !== '')
    : promptsOf(text).map((prompt) => JSON.stringify(category ? { prompt, category } : { prompt }))
  const body = lines.map((line) => `${line}\n`).join('')
  return { file: new File([body], 'pasted.jsonl', { type: 'application/x-ndjson' }), prompts: lines.length }
}
