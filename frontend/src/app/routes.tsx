/** Addresses and the screens behind them, each loaded when first visited. */
import { Compass } from 'lucide-react'
import { lazy, type ReactNode, Suspense } from 'react'
import Home from 'src/app/Home'
import { ResearchFrame } from 'src/app/ResearchFrame'
import { t } from 'src/ui/i18n/t'
import { LinkButton } from 'src/ui/widgets/Button'
import { Page } from 'src/ui/widgets/Page'
import { Empty, Guard, SkeletonBoxes } from 'src/ui/widgets/States'
import { Redirect, Route, Switch, useLocation } from 'wouter'

const Task = lazy(() => import('src/annotate/Task'))
const Overview = lazy(() => import('src/setup/Overview'))
const Prompts = lazy(() => import('src/setup/Prompts'))
const Comparisons = lazy(() => import('src/setup/Comparisons'))
const Tokens = lazy(() => import('src/setup/Tokens'))
const Rounds = lazy(() => import('src/training/Rounds'))
const Snapshots = lazy(() => import('src/training/Snapshots'))
const SnapshotPage = lazy(() => import('src/training/SnapshotPage'))
const Jobs = lazy(() => import('src/training/Jobs'))
const NewJob = lazy(() => import('src/training/NewJob'))
const Run = lazy(() => import('src/training/Run'))
const Models = lazy(() => import('src/training/Models'))

function Waiting() {
  return (
    <Page title={t('app.name')} heading={<span className="visually-hidden">{t('state.loading')}</span>}>
      <SkeletonBoxes boxes={3} />
    </Page>
  )
}

function Research({ slug, children }: { slug: string; children: ReactNode }) {
  const [path] = useLocation()
  return (
    <ResearchFrame slug={slug}>
      <Guard key={path}>
        <Suspense fallback={<Waiting />}>{children}</Suspense>
      </Guard>
    </ResearchFrame>
  )
}

const RESEARCH: [string, ReactNode][] = [
  ['', <Overview key="overview" />],
  ['/data', <Prompts key="data" />],
  ['/comparisons', <Comparisons key="comparisons" />],
  ['/rounds', <Rounds key="rounds" />],
  ['/snapshots', <Snapshots key="snapshots" />],
  ['/snapshots/:id', <SnapshotPage key="snapshot" />],
  ['/jobs', <Jobs key="jobs" />],
  ['/jobs/new', <NewJob key="new" />],
  ['/jobs/:id', <Run key="run" />],
  ['/policies', <Models key="models" />],
]

export function Routes() {
  return (
    <Switch>
      <Route path="/">
        <Home />
      </Route>
      <Route path="/signin">
        <Redirect to="/" replace />
      </Route>
      <Route path="/p/:slug">{({ slug }) => <Redirect to={`/p/${slug}/task`} replace />}</Route>
      <Route path="/p/:slug/task">
        <Suspense fallback={null}>
          <Task />
        </Suspense>
      </Route>
      <Route path="/r">
        <Redirect to="/" replace />
      </Route>
      {RESEARCH.map(([path, screen]) => (
        <Route key={path} path={`/r/:slug${path}`}>
          {({ slug }) => <Research slug={slug ?? ''}>{screen}</Research>}
        </Route>
      ))}
      <Route path="/settings/tokens">
        <Suspense fallback={<Waiting />}>
          <Tokens />
        </Suspense>
      </Route>
      <Route>
        <Page title={t('notFound.title')} narrow>
          <Empty
            icon={Compass}
            title={t('notFound.text')}
            action={<LinkButton href="/">{t('done.home')}</LinkButton>}
          />
        </Page>
      </Route>
    </Switch>
  )
}
