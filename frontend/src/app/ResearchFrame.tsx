/** The researcher's pages of one project: navigation beside, or above where it is narrow. */
import {
  ArrowUpDown,
  Boxes,
  Camera,
  Compass,
  Cpu,
  FlaskConical,
  Gavel,
  GitCompareArrows,
  Handshake,
  Layers,
  LayoutDashboard,
  Lightbulb,
  type LucideIcon,
  Medal,
  MessageSquareText,
  Microscope,
  Scale,
  ScrollText,
  Server,
  Settings,
  Siren,
  Split,
  Swords,
  Target,
  Trophy,
  Users,
  Webhook,
} from 'lucide-react'
import { type ReactNode, useLayoutEffect, useRef } from 'react'
import { useMembership } from 'src/api/membership'
import styles from 'src/app/Shell.module.css'
import { type Key, t } from 'src/ui/i18n/t'
import { Link, useLocation } from 'wouter'

/** The one page here that adjudicators, who are no researchers, have too. */
const ADJUDICATE = '/adjudicate'
/** Of the whole site: it leads out of the project. */
const EXPERIMENTS = '/experiments'

const NAVIGATION: { group: Key | null; links: [string, Key, LucideIcon][] }[] = [
  { group: null, links: [['', 'nav.overview', LayoutDashboard]] },
  {
    group: 'nav.data',
    links: [
      ['/data', 'nav.prompts', MessageSquareText],
      ['/imports', 'nav.imports', ArrowUpDown],
      ['/rounds', 'nav.rounds', Layers],
      ['/pairing', 'nav.pairing', GitCompareArrows],
      ['/comparisons', 'nav.comparisons', Scale],
      ['/snapshots', 'nav.snapshots', Camera],
    ],
  },
  {
    group: 'nav.quality',
    links: [
      ['/people', 'nav.people', Users],
      ['/gold', 'nav.gold', Target],
      [ADJUDICATE, 'nav.adjudicate', Gavel],
    ],
  },
  {
    group: 'nav.statistics',
    links: [
      ['/agreement', 'nav.agreement', Handshake],
      ['/ranking', 'nav.ranking', Trophy],
      ['/bias', 'nav.bias', Compass],
      ['/worst', 'nav.worst', Split],
      ['/advice', 'nav.advice', Lightbulb],
    ],
  },
  {
    group: 'nav.training',
    links: [
      ['/jobs', 'nav.jobs', Cpu],
      ['/policies', 'nav.models', Boxes],
      ['/playground', 'nav.playground', FlaskConical],
      ['/evaluations', 'nav.evaluations', Swords],
      ['/strengths', 'nav.strengths', Medal],
      ['/alarms', 'nav.alarms', Siren],
      ['/workers', 'nav.workers', Server],
      [EXPERIMENTS, 'nav.experiments', Microscope],
    ],
  },
  {
    group: 'nav.project',
    links: [
      ['/settings', 'nav.settings', Settings],
      ['/webhooks', 'nav.webhooks', Webhook],
      ['/audit', 'nav.audit', ScrollText],
    ],
  },
]

export default function ResearchFrame({ slug, children }: { slug: string; children: ReactNode }) {
  const [path] = useLocation()
  const { canResearch, canAdjudicate } = useMembership(slug)
  const base = `/r/${slug}`
  const nav = useRef<HTMLElement>(null)
  // biome-ignore lint/correctness/useExhaustiveDependencies: where the person went is in sight, however low it stands.
  useLayoutEffect(() => {
    nav.current?.querySelector('[aria-current]')?.scrollIntoView?.({ block: 'nearest', inline: 'center' })
  }, [path])
  const groups = NAVIGATION.map(({ group, links }) => ({
    group,
    links: links.filter(([rest]) => (rest === ADJUDICATE ? canAdjudicate : canResearch)),
  })).filter(({ links }) => links.length > 0)
  const isHere = (rest: string) =>
    rest === '' ? path === base : path === base + rest || path.startsWith(`${base}${rest}/`)
  return (
    <div className={styles.frame}>
      <nav ref={nav} className={styles.nav} aria-label={t('nav.label')}>
        <div>
          {groups.map(({ group, links }) => (
            <div key={group ?? 'top'}>
              {group && <div className={styles.group}>{t(group)}</div>}
              <ul>
                {links.map(([rest, label, Icon]) => (
                  <li key={rest}>
                    <Link
                      href={rest === EXPERIMENTS ? rest : base + rest}
                      className={styles.link}
                      aria-current={isHere(rest) ? 'page' : undefined}
                    >
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
