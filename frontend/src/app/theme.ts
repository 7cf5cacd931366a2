/** The theme before the first paint: the system's, or what this browser was told. */

export type Theme = 'system' | 'light' | 'dark'
export const THEMES: readonly Theme[] = ['system', 'light', 'dark']
const STORED = 'winnow-theme'

export function readTheme(): Theme {
  try {
    const stored = localStorage.getItem(STORED)
    return THEMES.find((theme) => theme === stored) ?? 'system'
  } catch {
    // Storage may be forbidden; the system's theme needs none.
    return 'system'
  }
}

export function applyTheme(theme: Theme): void {
  if (theme === 'system') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = theme
}

export function storeTheme(theme: Theme): void {
  applyTheme(theme)
  try {
    localStorage.setItem(STORED, theme)
  } catch {
    // The choice lasts as long as the page.
  }
  // Canvases read colours once; they draw again on this.
  window.dispatchEvent(new Event('winnow-theme'))
}
