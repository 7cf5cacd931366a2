/** Addresses and the screens behind them, each loaded when first visited. */
import { type ComponentType, lazy, type ReactNode, Suspense } from 'react'
import { useMembership } from 'src/api/membership'
import Home from 'src/app/Home'
import { researchStrings } from 'src/ui/i18n/languages'
import { t } from 'src/ui/i18n/t'
import { Page, useTitle } from 'src/ui/widgets/Page'
import { Guard, Missing, SkeletonBoxes } from 'src/ui/widgets/States'
import { Redirect, Route, Switch, useLocation } from 'wouter'

/** A page of the researchers', with the strings of all of them. */
function researchPage<Props extends object>(load: () => Promise<{ default: ComponentType<Props> }>) {
  return lazy(async () => (await Promise.all([load(), researchStrings()]))[0])
}

const loadTask = () => import('src/annotate/Task')
const Task = lazy(loadTask)
const Chat = lazy(() => import('src/annotate/Chat'))
const Start = lazy(() => import('src/annotate/Start'))
const Practice = lazy(async () => ({ default: (await import('src/annotate/Training')).Practice }))
const Qualification = lazy(async () => ({ default: (await import('src/annotate/Training')).Qualification }))
const Mine = lazy(() => import('src/annotate/Mine'))
const Me = lazy(() => import('src/app/Me'))
const Invite = lazy(() => import('src/app/Invite'))
const Imports = lazy(() => import('src/setup/Imports'))
const Pairing = lazy(() => import('src/setup/Pairing'))
const Settings = lazy(() => import('src/setup/Settings'))
const Webhooks = lazy(() => import('src/setup/Webhooks'))
const People = lazy(() => import('src/quality/People'))
const Golds = lazy(() => import('src/quality/Golds'))
const Agreement = lazy(() => import('src/statistics/Agreement'))
const Ranking = lazy(() => import('src/statistics/Ranking'))
const Bias = lazy(() => import('src/statistics/Bias'))
const Divided = lazy(() => import('src/statistics/Divided'))
const Planning = lazy(() => import('src/statistics/Planning'))
const Audit = lazy(() => import('src/setup/Audit'))
const Adjudicate = lazy(() => import('src/review/Adjudicate'))
/** Around the researchers' pages, so they need not ask for their strings themselves. */
const ResearchFrame = researchPage(() => import('src/app/ResearchFrame'))
const NewProject = researchPage(() => import('src/setup/NewProject'))
const Experiments = researchPage(() => import('src/training/Experiments'))
const ExperimentPage = researchPage(() => import('src/training/ExperimentPage'))
const SetUp = lazy(() => import('src/setup/SetUp'))
const Overview = lazy(() => import('src/setup/Overview'))
const Prompts = lazy(() => import('src/setup/Prompts'))
const ErasePrompt = lazy(() => import('src/setup/ErasePrompt'))
const Comparisons = lazy(() => import('src/setup/Comparisons'))
const Tokens = researchPage(() => import('src/setup/Tokens'))
const Rounds = lazy(() => import('src/training/Rounds'))
const Snapshots = lazy(() => import('src/training/Snapshots'))
const SnapshotPage = lazy(() => import('src/training/SnapshotPage'))
const SnapshotDiff = lazy(() => import('src/training/SnapshotDiff'))
const Jobs = lazy(() => import('src/training/Jobs'))
const NewJob = lazy(() => import('src/training/NewJob'))
const Run = lazy(() => import('src/training/Run'))
const CompareJobs = lazy(() => import('src/training/CompareJobs'))
const Workers = lazy(() => import('src/training/Workers'))
const Models = lazy(() => import('src/training/Models'))
const ModelPage = lazy(() => import('src/training/ModelPage'))
const Alarms = lazy(() => import('src/training/Alarms'))
const Evaluations = lazy(() => import('src/training/Evaluations'))
const EvaluationPage = lazy(() => import('src/training/EvaluationPage'))
const Playground = lazy(() => import('src/training/Playground'))
const Strengths = lazy(() => import('src/training/PolicyRanking'))

/** Fetches the screen of an address before it is known who is here: the annotator's page is waited for the most. */
export function preload(path: string): void {
  // A failure comes up again, and is shown, when the screen is rendered.
  if (/^\/p\/[^/]+\/task$/.test(path)) loadTask().catch(() => undefined)
}

function Waiting() {
  return (
    <Page title={t('app.name')} heading={<span className="visually-hidden">{t('state.loading')}</span>}>
      <SkeletonBoxes boxes={3} />
    </Page>
  )
}

function NotFound() {
  useTitle(t('notFound.title'))
  return <Missing page />
}

/** A project's pages are there for its members; to anybody else the address leads nowhere. */
function Members({ slug, children }: { slug: string; children: ReactNode }) {
  return useMembership(slug).isMember ? children : <NotFound />
}

function Research({ slug, children }: { slug: string; children: ReactNode }) {
  const [path] = useLocation()
  return (
    <Suspense fallback={<Waiting />}>
      <ResearchFrame slug={slug}>
        <Guard key={path}>
          <Suspense fallback={<Waiting />}>{children}</Suspense>
        </Guard>
      </ResearchFrame>
    </Suspense>
  )
}

const ANNOTATE: [string, ReactNode][] = [
  ['/task', <Task key="task" />],
  ['/chat', <Chat key="chat" />],
  ['/chat/:id', <Chat key="thread" />],
  ['/start', <Start key="start" />],
  ['/practice', <Practice key="practice" />],
  ['/qualification', <Qualification key="qualification" />],
  ['/me', <Mine key="me" />],
]

const RESEARCH: [string, ReactNode][] = [
  ['', <Overview key="overview" />],
  ['/setup', <SetUp key="setup" />],
  ['/data', <Prompts key="data" />],
  ['/data/:id/erase', <ErasePrompt key="erase" />],
  ['/imports', <Imports key="imports" />],
  ['/pairing', <Pairing key="pairing" />],
  ['/comparisons', <Comparisons key="comparisons" />],
  ['/people', <People key="people" />],
  ['/gold', <Golds key="gold" />],
  ['/agreement', <Agreement key="agreement" />],
  ['/ranking', <Ranking key="ranking" />],
  ['/bias', <Bias key="bias" />],
  ['/worst', <Divided key="worst" />],
  ['/advice', <Planning key="advice" />],
  ['/adjudicate', <Adjudicate key="adjudicate" />],
  ['/settings', <Settings key="settings" />],
  ['/webhooks', <Webhooks key="webhooks" />],
  ['/audit', <Audit key="audit" />],
  ['/rounds', <Rounds key="rounds" />],
  ['/snapshots', <Snapshots key="snapshots" />],
  ['/snapshots/:id', <SnapshotPage key="snapshot" />],
  ['/snapshots/:id/diff/:other', <SnapshotDiff key="difference" />],
  ['/jobs', <Jobs key="jobs" />],
  ['/jobs/new', <NewJob key="new" />],
  ['/jobs/compare', <CompareJobs key="compare" />],
  ['/jobs/:id', <Run key="run" />],
  ['/workers', <Workers key="workers" />],
  ['/policies', <Models key="models" />],
  ['/policies/:id', <ModelPage key="model" />],
  ['/alarms', <Alarms key="alarms" />],
  ['/evaluations', <Evaluations key="evaluations" />],
  ['/evaluations/:id', <EvaluationPage key="evaluation" />],
  ['/playground', <Playground key="playground" />],
  ['/strengths', <Strengths key="strengths" />],
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
      {ANNOTATE.map(([path, screen]) => (
        <Route key={path} path={`/p/:slug${path}`}>
          {({ slug }) => (
            <Members slug={slug ?? ''}>
              <Suspense fallback={null}>{screen}</Suspense>
            </Members>
          )}
        </Route>
      ))}
      <Route path="/invite">
        <Suspense fallback={<Waiting />}>
          <Invite />
        </Suspense>
      </Route>
      <Route path="/projects/new">
        <Suspense fallback={<Waiting />}>
          <NewProject />
        </Suspense>
      </Route>
      <Route path="/experiments">
        <Suspense fallback={<Waiting />}>
          <Experiments />
        </Suspense>
      </Route>
      <Route path="/experiments/:name/:setting">
        <Suspense fallback={<Waiting />}>
          <ExperimentPage />
        </Suspense>
      </Route>
      <Route path="/r">
        <Redirect to="/" replace />
      </Route>
      {RESEARCH.map(([path, screen]) => (
        <Route key={path} path={`/r/:slug${path}`}>
          {({ slug }) => (
            <Members slug={slug ?? ''}>
              <Research slug={slug ?? ''}>{screen}</Research>
            </Members>
          )}
        </Route>
      ))}
      <Route path="/me">
        <Suspense fallback={<Waiting />}>
          <Me />
        </Suspense>
      </Route>
      <Route path="/settings/tokens">
        <Suspense fallback={<Waiting />}>
          <Tokens />
        </Suspense>
      </Route>
      <Route>
        <NotFound />
      </Route>
    </Switch>
  )
}
