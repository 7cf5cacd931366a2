/** The researcher's pages of one project: navigation beside, or above where it is narrow. */
import { Boxes, Camera, Cpu, Layers, LayoutDashboard, type LucideIcon, MessageSquareText, Scale } from 'lucide-react'
import type { ReactNode } from 'react'
import styles from 'src/app/Shell.module.css'
import { type Key, t } from 'src/ui/i18n/t'
import { Link, useLocation } from 'wouter'

const NAVIGATION: { group: Key | null; links: [string, Key, LucideIcon][] }[] = [
  { group: null, links: [['', 'nav.overview', LayoutDashboard]] },
  {
    group: 'nav.data',
    links: [
      ['/data', 'nav.prompts', MessageSquareText],
      ['/rounds', 'nav.rounds', Layers],
      ['/comparisons', 'nav.comparisons', Scale],
      ['/snapshots', 'nav.snapshots', Camera],
    ],
  },
  {
    group: 'nav.training',
    links: [
      ['/jobs', 'nav.jobs', Cpu],
      ['/policies', 'nav.models', Boxes],
    ],
  },
]

export function ResearchFrame({ slug, children }: { slug: string; children: ReactNode }) {
  const [path] = useLocation()
  const base = `/r/${slug}`
  const isHere = (rest: string) =>
    rest === '' ? path === base : path === base + rest || path.startsWith(`${base}${rest}/`)
  return (
    <div className={styles.frame}>
      <nav className={styles.nav} aria-label={t('nav.label')}>
        <div>
          {NAVIGATION.map(({ group, links }) => (
            <div key={group ?? 'top'}>
              {group && <div className={styles.group}>{t(group)}</div>}
              <ul>
                {links.map(([rest, label, Icon]) => (
                  <li key={rest}>
                    <Link href={base + rest} className={styles.link} aria-current={isHere(rest) ? 'page' : undefined}>
                      <Icon size={17} aria-hidden="true" />
                      {t(label)}
                    </Link>
                  </li>
                ))}
              </ul>
            </div>
          ))}
        </div>
      </nav>
      {children}
    </div>
  )
}
