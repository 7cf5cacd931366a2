/** The theme before the first paint: what this browser was told, else the system's. */

export type Theme = 'system' | 'light' | 'dark' | 'contrast'
export const THEMES: readonly Theme[] = ['system', 'light', 'dark', 'contrast']
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

/** A system that asks for more contrast gets it, unless a theme was chosen here. */
const wantsMore = () => window.matchMedia('(prefers-contrast: more)')

export function applyTheme(theme: Theme): void {
  const shown = theme === 'system' && wantsMore().matches ? 'contrast' : theme
  if (shown === 'system') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = shown
  // Canvases read colours once; they draw again on this.
  window.dispatchEvent(new Event('winnow-theme'))
}

export function storeTheme(theme: Theme): void {
  applyTheme(theme)
  try {
    localStorage.setItem(STORED, theme)
  } catch {
    // The choice lasts as long as the page.
  }
}

/** The stored theme now, and again when the system's contrast changes. */
export function followTheme(): void {
  applyTheme(readTheme())
  wantsMore().addEventListener('change', () => applyTheme(readTheme()))
}
