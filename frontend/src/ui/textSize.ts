/** How large prompts and completions are set: what this browser was told. Interface text follows the browser's zoom. */

export const TEXT_SIZES = [14, 16, 18, 20] as const
export type TextSize = (typeof TEXT_SIZES)[number]
const STORED = 'winnow-text-size'

export function readTextSize(): TextSize {
  try {
    const stored = Number(localStorage.getItem(STORED))
    return TEXT_SIZES.find((size) => size === stored) ?? 16
  } catch {
    // Storage may be forbidden; the usual size needs none.
    return 16
  }
}

export function applyTextSize(size: TextSize): void {
  document.documentElement.style.setProperty('--reading', `${size}px`)
}

export function storeTextSize(size: TextSize): void {
  applyTextSize(size)
  try {
    localStorage.setItem(STORED, String(size))
  } catch {
    // The choice lasts as long as the page.
  }
}
