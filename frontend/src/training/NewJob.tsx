/** A job to be: method, data, models by role, settings; what it would take stands beside it. The server checks all. */
import { keepPreviousData, useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query'
import { Cpu, RotateCcw } from 'lucide-react'
import { type ReactNode, useEffect, useState } from 'react'
import { API_BASE } from 'src/api/client'
import { fieldErrors } from 'src/api/errors'
import { cloneJob, estimateQuery, jobListQuery, machinesQuery, sweepJobs } from 'src/api/jobsApi'
import { jobQuery, keys, methodsQuery, modelsQuery, snapshotsQuery, submitJob } from 'src/api/queries'
import type { Job, JobDetail, Machine, Method, Model, Snapshot, WishRequest } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import {
  type Axis,
  type Config,
  changedFields,
  type Draft,
  draftOf,
  faultOf,
  fitting,
  gridOf,
  gridSize,
  merge,
  overridesOf,
} from 'src/training/config'
import { EstimateCard } from 'src/training/EstimateCard'
import { JobFields } from 'src/training/JobFields'
import { CloneInputs, Inputs, Methods, Start, SweepCard } from 'src/training/JobInputs'
import styles from 'src/training/NewJob.module.css'
import {
  configOf,
  NO_PLAN,
  numberOf,
  type Offer,
  type Plan,
  promised,
  type Ref,
  readable,
  registered,
  usualRoles,
  wishAgain,
  wishOf,
} from 'src/training/wish'
import { t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { CopyBox } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import { Card, Page } from 'src/ui/widgets/Page'
import { ErrorPanel, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useLocation, useParams, useSearchParams } from 'wouter'

export const MOST_SWEEP = 24

export default function NewJob() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search] = useSearchParams()
  const from = search.get('from')
  return (
    <Page
      title={from ? t('newJob.cloneTitle') : t('newJob.title')}
      above={<Link href={`/r/${slug}/jobs`}>{t('nav.jobs')}</Link>}
      intro={from ? t('newJob.cloneIntro') : t('newJob.intro')}
    >
      {from ? <Clone slug={slug} from={from} /> : <Fresh slug={slug} />}
    </Page>
  )
}

const skeleton = <SkeletonBoxes boxes={2} height={260} />

function Clone({ slug, from }: { slug: string; from: string }) {
  const job = useQuery({ ...jobQuery(slug, from), refetchInterval: false })
  const model = job.data?.model?.id ?? ''
  const methods = useQuery({ ...methodsQuery(slug, model), enabled: job.data !== undefined })
  return (
    <Loaded query={job} what={t('run.failed')} skeleton={skeleton}>
      {(source) => (
        <Loaded query={methods} what={t('newJob.methodsFailed')} skeleton={skeleton}>
          {(all) => {
            const method = all.find((entry) => entry.name === source.method)
            if (!method) return <Notice tone="error">{t('newJob.noClone', { method: source.method })}</Notice>
            return <CloneForm slug={slug} source={source} method={method} />
          }}
        </Loaded>
      )}
    </Loaded>
  )
}

function Fresh({ slug }: { slug: string }) {
  const snapshots = useInfiniteQuery(snapshotsQuery(slug))
  const models = useInfiniteQuery(modelsQuery(slug))
  const jobs = useInfiniteQuery(jobListQuery(slug, {})).data ?? []
  return (
    <Loaded query={snapshots} what={t('snapshot.failed')} skeleton={skeleton}>
      {(allSnapshots) => (
        <Loaded query={models} what={t('models.failed')} skeleton={skeleton}>
          {(allModels) => <WithMethods slug={slug} snapshots={allSnapshots} models={allModels} jobs={jobs} />}
        </Loaded>
      )}
    </Loaded>
  )
}

type Rows = { slug: string; snapshots: Snapshot[]; models: Model[]; jobs: Job[] }

/** Defaults depend on the base model, so it is settled first: the address, else the current policy, else the newest. */
function WithMethods({ slug, snapshots, models, jobs }: Rows) {
  const [search] = useSearchParams()
  const bases = [...registered(models, 'policy'), ...promised(jobs, 'policy')]
  const asked = search.get('model')
  const base = bases.find((offer) => offer.ref === asked || offer.ref === `model:${asked}`) ?? bases[0]
  const sizeOf = base?.job ? (base.job.model?.id ?? '') : (base?.ref.split(':')[1] ?? '')
  const methods = useQuery({ ...methodsQuery(slug, sizeOf), placeholderData: keepPreviousData })
  const machines = useQuery({ ...machinesQuery(slug, sizeOf), placeholderData: keepPreviousData }).data ?? []
  return (
    <Loaded query={methods} what={t('newJob.methodsFailed')} skeleton={skeleton}>
      {(all) => (
        <FreshForm
          slug={slug}
          methods={all}
          machines={machines}
          snapshots={snapshots}
          models={models}
          jobs={jobs}
          bases={bases}
          base={asked === 'none' ? undefined : base}
        />
      )}
    </Loaded>
  )
}

type FreshProps = Rows & { methods: Method[]; machines: Machine[]; bases: Offer[]; base: Offer | undefined }

function FreshForm({ slug, methods, machines, snapshots, models, jobs, bases, base }: FreshProps) {
  const [search, change] = useAddress()
  const [drafts, setDrafts] = useState<Record<string, Draft>>(() => ({
    [search.get('method') ?? '']: draftOf(search.getAll('set')),
  }))
  const [chosen, setChosen] = useState<Record<string, Record<string, Ref[]>>>({})
  const [plan, setPlan] = useState<Plan>(NO_PLAN)
  const [axes, setAxes] = useState<Axis[]>([])
  const method = methods.find((entry) => entry.name === search.get('method')) ?? methods[0]
  if (!method) return <Notice tone="error">{t('newJob.noMethods')}</Notice>

  const fitted = readable(method, snapshots)
  const asked = search.get('snapshot')
  const isFree = !method.needs_snapshot && (asked === null || asked === 'none')
  const snapshot = isFree ? undefined : (fitted.find((entry) => entry.id === asked) ?? fitted[0])
  const offers = (kind: 'policy' | 'reward') => [...registered(models, kind), ...promised(jobs, kind)]
  const roles = chosen[method.name] ?? usualRoles(method, offers)
  const from = method.needs_model || search.get('model') !== null ? base : undefined
  const preset = method.presets.find((entry) => entry.name === plan.preset)
  const machine = machines.find((entry) => entry.name === plan.machine)
  const start = merge(
    merge(method.defaults, preset?.overrides ?? {}),
    fitting(machine?.overrides ?? {}, method.defaults),
  )
  const draft = drafts[method.name] ?? {}
  const fields = [...method.fields_shown, ...method.fields_more]
  const changed = changedFields(fields, start, draft)
  const overrides = overridesOf(changed, draft)
  const body = wishOf(method, { snapshot: snapshot?.id ?? '', base: from?.ref ?? '', roles }, overrides, {
    ...plan,
    preset: preset?.name ?? '',
    ...(axes.length > 0 ? { promoteAs: '' } : {}),
  })
  const lacking = [
    ...(method.needs_snapshot && !snapshot ? [t('newJob.lacksSnapshot', { kinds: method.kinds.join(', ') })] : []),
    ...(method.needs_model && !from ? [t('newJob.noModels')] : []),
    ...method.roles
      .filter((role) => (roles[role.role]?.length ?? 0) < role.least)
      .map((role) => t('newJob.lacksRole', { role: role.role })),
  ]
  return (
    <Form
      slug={slug}
      method={method}
      start={start}
      draft={draft}
      setDraft={(next) => setDrafts({ ...drafts, [method.name]: next })}
      axes={axes}
      setAxes={setAxes}
      body={body}
      lacking={lacking}
      inputs={(errors) => (
        <>
          <Methods methods={methods} chosen={method.name} onChoose={(name) => change({ method: name })} />
          <Inputs
            slug={slug}
            method={method}
            snapshots={fitted}
            snapshot={snapshot}
            models={models}
            bases={bases}
            base={from}
            roles={roles}
            offers={offers}
            errors={errors}
            onChoose={(name, value) => change({ [name]: value })}
            onRoles={(next) => setChosen({ ...chosen, [method.name]: next })}
          />
        </>
      )}
      after={(errors) => (
        <Start
          method={method}
          machines={machines}
          plan={plan}
          jobs={jobs}
          isSweep={axes.length > 0}
          errors={errors}
          onChange={(part) => setPlan({ ...plan, ...part })}
        />
      )}
      write={() => submitJob(slug, body)}
      path="jobs"
      sent={body}
    />
  )
}

function CloneForm({ slug, source, method }: { slug: string; source: JobDetail; method: Method }) {
  const [search] = useSearchParams()
  const [draft, setDraft] = useState<Draft>({})
  const [plan, setPlan] = useState<Plan>(NO_PLAN)
  const [checkpoint, setCheckpoint] = useState(search.get('checkpoint') ?? '')
  const [axes, setAxes] = useState<Axis[]>([])
  const start = configOf(source)
  const fields = [...method.fields_shown, ...method.fields_more]
  const changes = overridesOf(changedFields(fields, start, draft), draft)
  const priority = numberOf(plan.priority)
  const about = {
    ...(plan.title.trim() ? { title: plan.title.trim() } : {}),
    ...(priority === undefined ? {} : { priority }),
  }
  const request = { changes, ...about, ...(checkpoint ? { checkpoint } : {}) }
  return (
    <Form
      slug={slug}
      method={method}
      start={start}
      draft={draft}
      setDraft={setDraft}
      axes={axes}
      setAxes={setAxes}
      body={{ ...wishAgain(source, changes, checkpoint), ...about }}
      lacking={[]}
      inputs={(errors) => (
        <CloneInputs
          slug={slug}
          source={source}
          method={method}
          checkpoint={checkpoint}
          plan={plan}
          errors={errors}
          onCheckpoint={setCheckpoint}
          onPlan={(part) => setPlan({ ...plan, ...part })}
        />
      )}
      write={() => cloneJob(slug, source.id, request)}
      path={`jobs/${source.id}/clone`}
      isClone
      sent={request}
    />
  )
}

type FormProps = {
  slug: string
  method: Method
  /** The config that the settings start from, and what was typed over it. */
  start: Config
  draft: Draft
  setDraft: (draft: Draft) => void
  axes: Axis[]
  setAxes: (axes: Axis[]) => void
  /** As a job of its own: what is estimated, and what a grid is around. */
  body: WishRequest
  lacking: string[]
  inputs: (errors: Record<string, string>) => ReactNode
  after?: (errors: Record<string, string>) => ReactNode
  write: () => Promise<JobDetail>
  isClone?: boolean
  /** The same by API. */
  path: string
  sent: unknown
}

function Form(props: FormProps) {
  const { slug, method, start, draft, setDraft, axes, setAxes, body, lacking, inputs, after, write } = props
  const client = useQueryClient()
  const [, navigate] = useLocation()
  const fields = [...method.fields_shown, ...method.fields_more]
  const changed = changedFields(fields, start, draft)
  const faulty = changed.filter((field) => faultOf(field, draft[field.path] ?? '') !== null)
  const ready = lacking.length === 0 && faulty.length === 0
  const isSweep = axes.length > 0
  const size = isSweep ? gridSize(axes, fields) : 1
  const swept = { ...body, grid: gridOf(axes, fields) }
  const submit = useWrite(
    slug,
    async () => (isSweep ? (await sweepJobs(slug, swept)).items : [await write()]),
    (made) => {
      const [first] = made
      if (first && 'config' in first) client.setQueryData([...keys.project(slug), 'job', first.id], first)
      navigate(isSweep ? `/r/${slug}/jobs?sweep=${first?.sweep ?? ''}` : `/r/${slug}/jobs/${first?.id ?? ''}`)
    },
  )
  const settled = useSettled(JSON.stringify(body))
  const estimate = useQuery(estimateQuery(slug, JSON.parse(settled) as WishRequest, ready))
  // What the server said last: of the attempt to start, else of the estimate for what stands here.
  const errors = submit.isError ? fieldErrors(submit.error) : ready ? fieldErrors(estimate.error) : {}
  const setField = (path: string, text: string) => {
    submit.reset()
    setDraft({ ...draft, [path]: text })
  }
  const shownOnForm = new Set(fields.map((field) => field.path))
  const elsewhere = Object.entries(errors).filter(([path]) => !shownOnForm.has(path) && !BESIDE.test(path))
  return (
    <form
      className={styles.layout}
      noValidate
      onSubmit={(event) => {
        event.preventDefault()
        if (!submit.isPending) submit.mutate(undefined)
      }}
    >
      <div className={styles.main}>
        {inputs(errors)}
        <Card
          title={t('newJob.parameters')}
          note={
            changed.length === 0
              ? t(props.isClone ? 'newJob.asInJob' : 'newJob.asByDefault')
              : t(props.isClone ? 'newJob.changedFromJob' : 'newJob.changedCount', { n: changed.length })
          }
          actions={
            changed.length > 0 && (
              <Button small onClick={() => setDraft({})}>
                <RotateCcw size={14} aria-hidden="true" />
                {t('newJob.reset')}
              </Button>
            )
          }
        >
          <JobFields
            method={method}
            base={start}
            draft={draft}
            errors={errors}
            changed={new Set(changed.map((field) => field.path))}
            setField={setField}
          />
        </Card>
        <SweepCard method={method} axes={axes} size={size} most={MOST_SWEEP} errors={errors} onChange={setAxes} />
        {after?.(errors)}
      </div>
      <div className={styles.aside}>
        <EstimateCard query={estimate} ready={ready} lacking={lacking} faults={faulty.length} jobs={size}>
          {elsewhere.length > 0 && (
            <Notice tone="error" role="alert">
              {elsewhere.map(([path, text]) => (
                <div key={path}>
                  <code>{path}</code>: {text}
                </div>
              ))}
            </Notice>
          )}
          {submit.isError && Object.keys(errors).length > elsewhere.length && (
            <Notice tone="error" role="alert">
              {t('newJob.fix', { n: Object.keys(errors).length - elsewhere.length })}
            </Notice>
          )}
          {submit.isError && Object.keys(errors).length === 0 && (
            <ErrorPanel what={t('newJob.failed')} error={submit.error} />
          )}
          <Button
            look="primary"
            type="submit"
            busy={submit.isPending}
            disabled={lacking.length > 0 || size < 1 || size > MOST_SWEEP}
          >
            <Cpu size={16} aria-hidden="true" />
            {submit.isPending ? t('newJob.busy') : isSweep ? t('newJob.startSweep', { n: size }) : t('newJob.start')}
          </Button>
        </EstimateCard>
        <SameByApi slug={slug} path={isSweep ? 'jobs/sweep' : props.path} body={isSweep ? swept : props.sent} />
      </div>
    </form>
  )
}

const PAUSE_MS = 400

/** The value once nobody has changed it for a moment: not every letter is a question to the server. */
function useSettled(value: string): string {
  const [settled, setSettled] = useState(value)
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), PAUSE_MS)
    return () => clearTimeout(timer)
  }, [value])
  return settled
}

/** Fields of a request that say their own errors. */
const BESIDE = /^(snapshot|model|preset|machine|title|priority|promote_as|after|checkpoint|grid|inputs\.\w+)(\.|$)/

function SameByApi({ slug, path, body }: { slug: string; path: string; body: unknown }) {
  const json = JSON.stringify(body, null, 2)
  const curl = `curl -X POST "${window.location.origin}${API_BASE}projects/${slug}/${path}" \\
  -H "Authorization: Bearer $WINNOW_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '${json.replaceAll("'", "'\\''")}'`
  return (
    <Card title={t('newJob.byApi')} note={t('newJob.byApiNote')}>
      <CopyBox text={curl} label={t('job.asCurl')} />
    </Card>
  )
}
