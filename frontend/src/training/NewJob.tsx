/** A training job: method, snapshot, base model, parameters. The server checks; this form shows what it said. */
import { keepPreviousData, useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Cpu, RotateCcw } from 'lucide-react'
import { useState } from 'react'
import { API_BASE } from 'src/api/client'
import { fieldErrors } from 'src/api/errors'
import { keys, methodsQuery, modelsQuery, snapshotsQuery, submitJob } from 'src/api/queries'
import type { JobCreateRequest, Method, Model, Snapshot } from 'src/api/schema'
import { fieldKind, nest, shown, typed } from 'src/training/config'
import styles from 'src/training/NewJob.module.css'
import { count, short } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { CopyBox } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { ChoiceCard, SelectField, TextField } from 'src/ui/widgets/Field'
import { Card, Facts, Page } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link, useLocation, useParams, useSearchParams } from 'wouter'

export default function NewJob() {
  const { slug = '' } = useParams<{ slug: string }>()
  const snapshots = useInfiniteQuery(snapshotsQuery(slug))
  const models = useInfiniteQuery(modelsQuery(slug))
  const skeleton = <SkeletonBoxes boxes={2} height={260} />
  return (
    <Page
      title={t('newJob.title')}
      above={<Link href={`/r/${slug}/jobs`}>{t('nav.jobs')}</Link>}
      intro={t('newJob.intro')}
    >
      <Loaded query={snapshots} what={t('snapshot.failed')} skeleton={skeleton}>
        {(allSnapshots) => (
          <Loaded query={models} what={t('models.failed')} skeleton={skeleton}>
            {(allModels) => <Inputs slug={slug} snapshots={allSnapshots} models={allModels} />}
          </Loaded>
        )}
      </Loaded>
    </Page>
  )
}

/** Defaults depend on the base model, so it is settled first: the address, else the newest policy. */
function Inputs({ slug, snapshots, models }: { slug: string; snapshots: Snapshot[]; models: Model[] }) {
  const [search] = useSearchParams()
  const policies = models.filter((entry) => entry.kind === 'policy')
  const model = policies.find((entry) => entry.id === search.get('model')) ?? policies[0]
  const methods = useQuery({ ...methodsQuery(slug, model?.id ?? ''), placeholderData: keepPreviousData })
  if (snapshots.length === 0) {
    return (
      <Card>
        <Empty
          icon={Cpu}
          title={t('newJob.noSnapshot')}
          action={
            <LinkButton href={`/r/${slug}/snapshots?freeze=1`} look="primary">
              {t('overview.freeze')}
            </LinkButton>
          }
        >
          {t('newJob.noSnapshotText')}
        </Empty>
      </Card>
    )
  }
  return (
    <Loaded query={methods} what={t('newJob.methodsFailed')} skeleton={<SkeletonBoxes boxes={2} height={260} />}>
      {(all) => <Form slug={slug} methods={all} snapshots={snapshots} policies={policies} model={model} />}
    </Loaded>
  )
}

type FormProps = { slug: string; methods: Method[]; snapshots: Snapshot[]; policies: Model[]; model: Model | undefined }

/** What the person typed, by method: changing the method and back loses nothing. */
type Drafts = Record<string, Record<string, string>>

function Form({ slug, methods, snapshots, policies, model }: FormProps) {
  const client = useQueryClient()
  const [, navigate] = useLocation()
  const [search, setSearch] = useSearchParams()
  const method = methods.find((entry) => entry.name === search.get('method')) ?? methods[0]
  const snapshot = snapshots.find((entry) => entry.id === search.get('snapshot')) ?? snapshots[0]
  const [drafts, setDrafts] = useState<Drafts>({})
  const choose = (name: string, value: string) =>
    setSearch(
      (params) => {
        params.set(name, value)
        return params
      },
      { replace: true },
    )

  const draft = drafts[method?.name ?? ''] ?? {}
  const changed = method?.fields_shown.filter((field) => {
    const text = draft[field.path]
    return text !== undefined && text.trim() !== shown(field.default)
  })
  const overrides = nest(
    (changed ?? []).map(
      (field) => [field.path, typed(fieldKind(field.type, field.choices), draft[field.path] ?? '')] as const,
    ),
  )
  const body: JobCreateRequest = {
    method: method?.name ?? '',
    snapshot: snapshot?.id ?? '',
    model: model?.id ?? '',
    config: overrides,
  }
  const submit = useMutation({
    mutationFn: () => submitJob(slug, body),
    onSuccess: async (job) => {
      navigate(`/r/${slug}/jobs/${job.id}`)
      await client.invalidateQueries({ queryKey: keys.project(slug) })
    },
  })
  const errors = fieldErrors(submit.error)
  if (!method) return <Notice tone="error">{t('newJob.noMethods')}</Notice>
  const paths = new Set(method.fields_shown.map((field) => field.path))
  const elsewhere = Object.entries(errors).filter(
    ([path]) => !paths.has(path) && !['snapshot', 'model', 'method'].includes(path),
  )
  const setField = (path: string, text: string) => setDrafts({ ...drafts, [method.name]: { ...draft, [path]: text } })

  return (
    <form
      className={styles.layout}
      noValidate
      onSubmit={(event) => {
        event.preventDefault()
        if (!submit.isPending) submit.mutate()
      }}
    >
      <div className={styles.main}>
        <Card title={t('newJob.method')}>
          <div className={styles.methods} role="radiogroup" aria-label={t('newJob.method')}>
            {methods.map((entry) => (
              <ChoiceCard
                key={entry.name}
                kind="radio"
                name="method"
                label={entry.title}
                note={entry.description}
                checked={entry.name === method.name}
                onChange={() => choose('method', entry.name)}
              />
            ))}
          </div>
        </Card>
        <Card title={t('newJob.inputs')}>
          <div className={styles.methods}>
            <SelectField
              label={t('newJob.snapshot')}
              error={errors.snapshot}
              help={snapshot && t('newJob.snapshotHelp', { train: snapshot.counts.train, test: snapshot.counts.test })}
              value={snapshot?.id ?? ''}
              onChange={(event) => choose('snapshot', event.target.value)}
              options={snapshots.map((entry): [string, string] => [
                entry.id,
                `${t('snapshot.title', { number: entry.number })}${entry.name ? ` · ${entry.name}` : ''} (${count(entry.counts.total)})`,
              ])}
            />
            <SelectField
              label={t('newJob.model')}
              error={errors.model}
              help={
                model && model.parameters !== null
                  ? t('models.parametersShort', { n: short(model.parameters) })
                  : undefined
              }
              value={model?.id ?? ''}
              onChange={(event) => choose('model', event.target.value)}
              options={policies.map((entry): [string, string] => [entry.id, entry.name])}
            />
          </div>
          {policies.length === 0 && <Notice tone="warn">{t('newJob.noModels')}</Notice>}
        </Card>
        <Card
          title={t('newJob.parameters')}
          note={t('newJob.changedCount', { n: changed?.length ?? 0 })}
          actions={
            changed &&
            changed.length > 0 && (
              <Button small onClick={() => setDrafts({ ...drafts, [method.name]: {} })}>
                <RotateCcw size={14} aria-hidden="true" />
                {t('newJob.reset')}
              </Button>
            )
          }
        >
          <Parameters
            method={method}
            draft={draft}
            errors={errors}
            changed={new Set(changed?.map((field) => field.path))}
            setField={setField}
          />
        </Card>
      </div>
      <div className={styles.aside}>
        <Card title={t('newJob.review')}>
          <Facts
            items={[
              [t('newJob.method'), method.title],
              [t('newJob.snapshot'), snapshot ? t('snapshot.title', { number: snapshot.number }) : '–'],
              [t('newJob.model'), model?.name ?? '–'],
            ]}
          />
          {elsewhere.length > 0 && (
            <Notice tone="error" role="alert">
              {elsewhere.map(([path, text]) => (
                <div key={path}>
                  <code>{path}</code>: {text}
                </div>
              ))}
            </Notice>
          )}
          {submit.isError && Object.keys(errors).length > 0 && elsewhere.length === 0 && (
            <Notice tone="error" role="alert">
              {t('newJob.fix', { n: Object.keys(errors).length })}
            </Notice>
          )}
          {submit.isError && Object.keys(errors).length === 0 && (
            <ErrorPanel what={t('newJob.failed')} error={submit.error} />
          )}
          <Button look="primary" type="submit" busy={submit.isPending} disabled={!model || !snapshot}>
            <Cpu size={16} aria-hidden="true" />
            {submit.isPending ? t('newJob.busy') : t('newJob.start')}
          </Button>
        </Card>
        <SameByApi slug={slug} body={body} />
      </div>
    </form>
  )
}

type ParametersProps = {
  method: Method
  draft: Record<string, string>
  errors: Record<string, string>
  changed: ReadonlySet<string>
  setField: (path: string, text: string) => void
}

function Parameters({ method, draft, errors, changed, setField }: ParametersProps) {
  return (
    <div className={styles.fields}>
      {method.fields_shown.map((field) => {
        const kind = fieldKind(field.type, field.choices)
        const shared = {
          label: field.label,
          help: field.help,
          title: field.path,
          error: errors[field.path],
          changed: changed.has(field.path),
          value: draft[field.path] ?? shown(field.default),
        }
        const onChange = (event: { target: { value: string } }) => setField(field.path, event.target.value)
        if (kind === 'choice' || kind === 'boolean') {
          const options = kind === 'boolean' ? ['true', 'false'] : (field.choices ?? []).map(shown)
          const words: Record<string, string> = { true: t('form.yes'), false: t('form.no'), '': t('form.none') }
          return (
            <SelectField
              key={field.path}
              {...shared}
              onChange={onChange}
              options={options.map((option): [string, string] => [option, words[option] ?? option])}
            />
          )
        }
        return (
          <TextField
            key={field.path}
            {...shared}
            unit={field.unit || undefined}
            inputMode={kind === 'number' ? 'decimal' : 'text'}
            onChange={onChange}
          />
        )
      })}
    </div>
  )
}

function SameByApi({ slug, body }: { slug: string; body: JobCreateRequest }) {
  const json = JSON.stringify(body, null, 2)
  const curl = `curl -X POST "${window.location.origin}${API_BASE}projects/${slug}/jobs" \\
  -H "Authorization: Bearer $WINNOW_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '${json.replaceAll("'", "'\\''")}'`
  return (
    <Card title={t('newJob.byApi')} note={t('newJob.byApiNote')}>
      <CopyBox text={curl} label={t('job.asCurl')} />
    </Card>
  )
}
