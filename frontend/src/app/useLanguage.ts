import { useSyncExternalStore } from 'react'
import { type Language, language, onLanguage } from 'src/ui/i18n/languages'

export const useLanguage = (): Language => useSyncExternalStore(onLanguage, language)
