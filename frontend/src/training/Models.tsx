/** Registered models: policies to sample from, reward models to score with, each with where it came from. */
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Boxes, Plus } from 'lucide-react'
import { type ReactNode, useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { modelListQuery, SHELVES } from 'src/api/modelsApi'
import { keys, registerModel, sessionQuery } from 'src/api/queries'
import type { Model } from 'src/api/schema'
import { mainFigure } from 'src/training/figures'
import { LicenceField } from 'src/training/LicenceField'
import styles from 'src/training/Models.module.css'
import { OfCeiling } from 'src/training/OfCeiling'
import { bytes, DASH, interval, measured, short } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge, Hash, Time } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Dialog } from 'src/ui/widgets/Dialog'
import { SelectField, TextField } from 'src/ui/widgets/Field'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Skeleton } from 'src/ui/widgets/States'
import { Tabs } from 'src/ui/widgets/Tabs'
import { Link, useParams, useSearchParams } from 'wouter'

const KINDS = ['policy', 'reward'] as const
type Kind = (typeof KINDS)[number]

const HELD_AGAINST = ['test/vote_accuracy', 'eval/vote_accuracy']

function figure(model: Model): ReactNode {
  const main = mainFigure(model.metrics)
  if (!main) return DASH
  const against = HELD_AGAINST.find((candidate) => typeof model.metrics[candidate] === 'number')
  return (
    <>
      {`${main.name} ${measured(main.value)}`}
      {main.low !== null && main.high !== null && (
        <div className="muted small">{interval(measured(main.low), measured(main.high))}</div>
      )}
      {against && <OfCeiling name={against} value={model.metrics[against]} of={model.ceiling} />}
    </>
  )
}

/** Where a model came from, with links. */
function origin(slug: string, model: Model): ReactNode {
  if (!model.job && !model.snapshot) return <span className="muted">{t('models.given')}</span>
  return (
    <>
      {model.job && <Link href={`/r/${slug}/jobs/${model.job}`}>{t('models.job')}</Link>}
      {model.job && model.snapshot && ' · '}
      {model.snapshot && <Link href={`/r/${slug}/snapshots/${model.snapshot}`}>{t('snapshot.one')}</Link>}
      {model.step !== null && <div className="muted small">{t('chart.step', { step: model.step })}</div>}
    </>
  )
}

export default function Models() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const operator = useQuery(sessionQuery()).data?.user?.is_operator ?? false
  const [search, setSearch] = useSearchParams()
  const kind: Kind = KINDS.find((value) => value === search.get('kind')) ?? 'policy'
  const shelf = SHELVES.find((value) => value === search.get('archived')) ?? 'no'
  const tag = search.get('tag') ?? ''
  const list = useInfiniteQuery(modelListQuery(slug, shelf))
  const [adding, setAdding] = useState(false)
  const choose = (name: string, value: string) =>
    setSearch((params) => {
      if (value) params.set(name, value)
      else params.delete(name)
      return params
    })
  const tags = [...new Set([...(list.data ?? []).flatMap((model) => model.tags), ...(tag ? [tag] : [])])].sort()

  const columns: Column<Model>[] = [
    {
      name: 'name',
      header: t('models.name'),
      wrap: true,
      cell: (model) => (
        <>
          <div className={styles.name}>
            <Link href={`/r/${slug}/policies/${model.id}`} className={styles.link}>
              {model.name}
            </Link>
            {model.is_current && <Badge tone="ok">{t('models.current')}</Badge>}
            {model.archived_at && <Badge>{t('models.archived')}</Badge>}
            {model.tags.map((one) => (
              <Badge key={one}>{one}</Badge>
            ))}
          </div>
          {model.sha256 && (
            <div className="muted small">
              sha256 <Hash value={model.sha256} />
            </div>
          )}
        </>
      ),
    },
    {
      name: 'base',
      header: t('models.base'),
      cell: (model) => (
        <>
          {model.base ? (
            <Link href={`/r/${slug}/policies/${model.base.id}`}>{model.base.name}</Link>
          ) : (
            t(`models.source.${model.source}`)
          )}
          {model.licence && <div className="muted small">{model.licence}</div>}
        </>
      ),
    },
    { name: 'lineage', header: t('models.lineage'), cell: (model) => origin(slug, model) },
    { name: 'figure', header: t('job.figure'), cell: (model) => <div className={styles.figure}>{figure(model)}</div> },
    {
      name: 'size',
      header: t('models.size'),
      cell: (model) => (
        <>
          {model.parameters === null ? DASH : t('models.parametersShort', { n: short(model.parameters) })}
          <div className="muted small">{bytes(model.size_bytes)}</div>
        </>
      ),
    },
    { name: 'created', header: t('models.created'), cell: (model) => <Time at={model.created_at} /> },
    {
      name: 'actions',
      header: <span className="visually-hidden">{t('action.actions')}</span>,
      tools: true,
      align: 'end',
      cell: (model) =>
        canManage && model.kind === 'policy' && !model.archived_at ? (
          <LinkButton small href={`/r/${slug}/rounds?new=1&policy=${model.id}`}>
            {t('overview.sample')}
          </LinkButton>
        ) : null,
    },
  ]
  return (
    <Page
      title={t('nav.models')}
      intro={t('models.intro')}
      actions={
        operator && (
          <Button onClick={() => setAdding(true)}>
            <Plus size={16} aria-hidden="true" />
            {t('models.register')}
          </Button>
        )
      }
    >
      <Tabs
        label={t('models.kinds')}
        tabs={KINDS.map((value): [Kind, string] => [value, t(`models.kind.${value}`)])}
        selected={kind}
        onSelect={(value) => choose('kind', value)}
      >
        <div className={styles.filters}>
          <SelectField
            label={t('models.shown')}
            value={shelf}
            onChange={(event) => choose('archived', event.target.value === 'no' ? '' : event.target.value)}
            options={SHELVES.map((value): [string, string] => [value, t(`models.shown.${value}`)])}
          />
          {tags.length > 0 && (
            <SelectField
              label={t('models.tag')}
              value={tag}
              onChange={(event) => choose('tag', event.target.value)}
              options={[['', t('models.anyTag')], ...tags.map((one): [string, string] => [one, one])]}
            />
          )}
        </div>
        <Card flush>
          <Loaded
            query={list}
            what={t('models.failed')}
            skeleton={
              <div style={{ padding: '0 24px' }}>
                <Skeleton rows={5} />
              </div>
            }
          >
            {(all) => {
              const rows = all.filter((model) => model.kind === kind && (tag === '' || model.tags.includes(tag)))
              if (rows.length > 0) {
                return (
                  <DataTable
                    caption={t(`models.kind.${kind}`)}
                    columns={columns}
                    rows={rows}
                    rowKey={(model) => model.id}
                    more={list}
                  />
                )
              }
              return tag || shelf === 'yes' ? (
                <Empty icon={Boxes} title={t('models.noneHere')}>
                  {t('models.noneHereText')}
                </Empty>
              ) : (
                <Empty icon={Boxes} title={t(`models.none.${kind}`)}>
                  {t(`models.noneText.${kind}`)}
                </Empty>
              )
            }}
          </Loaded>
        </Card>
      </Tabs>
      {adding && <RegisterDialog slug={slug} onClose={() => setAdding(false)} />}
    </Page>
  )
}

function RegisterDialog({ slug, onClose }: { slug: string; onClose: () => void }) {
  const client = useQueryClient()
  const [name, setName] = useState('')
  const [from, setFrom] = useState<'path' | 'hub_id'>('path')
  const [place, setPlace] = useState('')
  const [licence, setLicence] = useState('')
  const register = useMutation({
    mutationFn: () => registerModel(slug, { name: name.trim(), [from]: place.trim(), licence: licence.trim() }),
    onSuccess: async () => {
      await client.invalidateQueries({ queryKey: keys.project(slug) })
      onClose()
    },
  })
  const errors = fieldErrors(register.error)
  return (
    <Dialog
      title={t('models.registerTitle')}
      onClose={onClose}
      onSubmit={() => register.mutate()}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit" busy={register.isPending}>
            {t('models.register')}
          </Button>
        </>
      }
    >
      <TextField
        label={t('models.name')}
        error={errors.name}
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
      <SelectField
        label={t('models.from')}
        value={from}
        onChange={(event) => setFrom(event.target.value === 'hub_id' ? 'hub_id' : 'path')}
        options={[
          ['path', t('models.from.path')],
          ['hub_id', t('models.from.hub')],
        ]}
      />
      <TextField
        label={t(from === 'path' ? 'models.path' : 'models.hubId')}
        help={t(from === 'path' ? 'models.pathHelp' : 'models.hubHelp')}
        error={errors[from]}
        value={place}
        onChange={(event) => setPlace(event.target.value)}
      />
      <LicenceField value={licence} error={errors.licence} onChange={setLicence} />
      {register.isError && Object.keys(errors).length === 0 && (
        <ErrorPanel what={t('models.registerFailed')} error={register.error} />
      )}
    </Dialog>
  )
}
