/** The frame of every page: product, project, role, keys, theme, account. */
import { useMutation } from '@tanstack/react-query'
import {
  ChevronsUpDown,
  Contrast,
  Keyboard,
  KeyRound,
  LogOut,
  Monitor,
  Moon,
  SlidersHorizontal,
  Sun,
} from 'lucide-react'
import { type ReactNode, useEffect, useRef, useState } from 'react'
import { closeOutbox } from 'src/annotate/outboxStore'
import { signOut } from 'src/api/queries'
import type { User } from 'src/api/schema'
import { Mark } from 'src/app/Mark'
import styles from 'src/app/Shell.module.css'
import { readTheme, storeTheme, THEMES, type Theme } from 'src/app/theme'
import { chooseLanguage, LANGUAGES, type Language, language, nameOf } from 'src/ui/i18n/languages'
import { t } from 'src/ui/i18n/t'
import { KeySheet } from 'src/ui/keys/KeySheet'
import { useKeys } from 'src/ui/keys/useKeys'
import { Button } from 'src/ui/widgets/Button'
import { HeaderSlotContext } from 'src/ui/widgets/HeaderSlot'
import { Menu, type MenuItem } from 'src/ui/widgets/Menu'
import { Link, useLocation } from 'wouter'

const ACCOUNT = 'account'
const THEME_ICONS = { system: Monitor, light: Sun, dark: Moon, contrast: Contrast }

/** Where the strings cannot be loaded now, the choice stands for the next visit. */
async function speakFromMenu(name: Language): Promise<void> {
  await chooseLanguage(name).catch(() => undefined)
  // The page was made anew, and with it the button that had the focus.
  requestAnimationFrame(() => document.querySelector<HTMLElement>(`#${ACCOUNT} button`)?.focus())
}

/** The project and role that an address speaks of. */
export function placeOf(path: string): { slug: string | null; role: 'annotate' | 'research' | null } {
  const [, area, slug] = path.split('/')
  if (area === 'p' && slug) return { slug, role: 'annotate' }
  if (area === 'r' && slug) return { slug, role: 'research' }
  return { slug: null, role: null }
}

export function Shell({ user, children }: { user: User; children: ReactNode }) {
  const [path] = useLocation()
  const [theme, setTheme] = useState<Theme>(readTheme)
  const [slot, setSlot] = useState<HTMLElement | null>(null)
  const [sheet, setSheet] = useState(false)
  const { slug, role } = placeOf(path)
  const project = user.projects.find((entry) => entry.slug === slug)
  const onTask = /^\/p\/[^/]+\/(task|practice|qualification|chat\/)/.test(path)
  // The task page has a key sheet of its own, which it opens by the same key.
  useKeys(['any'], { help: onTask ? undefined : () => setSheet(true) })

  const leave = useMutation({
    mutationFn: signOut,
    onSuccess: () => {
      // Votes that wait stay on the device for their owner, and hold nobody back.
      closeOutbox()
      window.location.assign('/')
    },
  })

  const main = useRef<HTMLElement>(null)
  const first = useRef(true)
  // biome-ignore lint/correctness/useExhaustiveDependencies: a new page starts at its top, for eyes and for readers.
  useEffect(() => {
    if (first.current) {
      first.current = false
      return
    }
    window.scrollTo(0, 0)
    main.current?.focus({ preventScroll: true })
  }, [path])

  const home = (entry: User['projects'][number]) =>
    entry.can_research && (role !== 'annotate' || !entry.can_annotate) ? `/r/${entry.slug}` : `/p/${entry.slug}/task`
  const projects: MenuItem[] = user.projects.map((entry) => ({
    kind: 'link',
    label: entry.name,
    href: home(entry),
    checked: entry.slug === slug,
  }))
  const account: MenuItem[] = [
    { kind: 'heading', label: user.name || user.email, note: user.email },
    { kind: 'separator' },
    {
      kind: 'link',
      label: t('settings.mine'),
      icon: <SlidersHorizontal size={16} aria-hidden="true" />,
      href: '/me',
    },
    {
      kind: 'link',
      label: t('account.tokens'),
      icon: <KeyRound size={16} aria-hidden="true" />,
      href: '/settings/tokens',
    },
    { kind: 'separator' },
    { kind: 'heading', label: t('account.language') },
    ...LANGUAGES.map(
      (name): MenuItem => ({
        kind: 'action',
        label: nameOf(name),
        lang: name,
        checked: name === language(),
        run: () => void speakFromMenu(name),
      }),
    ),
    { kind: 'separator' },
    {
      kind: 'action',
      label: t('account.signOut'),
      icon: <LogOut size={16} aria-hidden="true" />,
      run: () => leave.mutate(),
    },
  ]
  const ThemeIcon = THEME_ICONS[theme]
  const themes: MenuItem[] = THEMES.map((name) => ({
    kind: 'action',
    label: t(`theme.${name}`),
    checked: name === theme,
    run: () => {
      storeTheme(name)
      setTheme(name)
    },
  }))

  return (
    <div className={`${styles.shell} ${onTask ? styles.onTask : ''}`}>
      <a className={styles.skip} href="#main">
        {t('app.skip')}
      </a>
      <header className={styles.header}>
        <Link href="/" className={styles.brand} aria-label={t('app.home')}>
          <Mark />
          <span className={styles.brandName}>{t('app.name')}</span>
        </Link>
        {user.projects.length > 0 && (
          <>
            <span className={styles.divider} />
            <div className={styles.switch}>
              <Menu
                label={t('app.projects')}
                align="start"
                items={projects}
                button={
                  <>
                    <span className={styles.switcher}>{project?.name ?? t('app.projects')}</span>
                    <ChevronsUpDown size={14} aria-hidden="true" />
                  </>
                }
              />
            </div>
          </>
        )}
        {project?.can_annotate && project.can_research && (
          <nav className={styles.roles} aria-label={t('app.role')}>
            <Link
              href={`/p/${project.slug}/task`}
              className={styles.role}
              aria-current={role === 'annotate' ? 'page' : undefined}
            >
              {t('app.annotate')}
            </Link>
            <Link
              href={`/r/${project.slug}`}
              className={styles.role}
              aria-current={role === 'research' ? 'page' : undefined}
            >
              {t('app.research')}
            </Link>
          </nav>
        )}
        <div className={styles.slot} ref={setSlot} />
        <div className={styles.end}>
          {!onTask && (
            <span className={styles.keysButton}>
              <Button
                look="quiet"
                small
                icon
                aria-label={t('keys.title')}
                title={t('keys.title')}
                onClick={() => setSheet(true)}
              >
                <Keyboard size={18} aria-hidden="true" />
              </Button>
            </span>
          )}
          <Menu label={t('theme.label')} icon items={themes} button={<ThemeIcon size={18} aria-hidden="true" />} />
          <span id={ACCOUNT}>
            <Menu
              label={t('account.label')}
              icon
              items={account}
              button={
                <span className={styles.avatar} aria-hidden="true">
                  {(user.name || user.email).slice(0, 1).toUpperCase()}
                </span>
              }
            />
          </span>
        </div>
      </header>
      <HeaderSlotContext value={slot}>
        <main id="main" ref={main} tabIndex={-1} className={styles.main}>
          {children}
        </main>
      </HeaderSlotContext>
      {sheet && <KeySheet scopes={['any', 'choice', 'task']} onClose={() => setSheet(false)} />}
    </div>
  )
}
