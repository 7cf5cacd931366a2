/** Registered models: policies to sample from, reward models to score with, each with where it came from. */
import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { Boxes, Plus } from 'lucide-react'
import { type ReactNode, useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { keys, modelsQuery, registerModel, sessionQuery } from 'src/api/queries'
import type { Model } from 'src/api/schema'
import { OfCeiling } from 'src/training/OfCeiling'
import { bytes, measured, short } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Hash, Time } from 'src/ui/widgets/Bits'
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

const FIGURES = ['test/accuracy', 'eval/accuracy', 'rollout/kl', 'train/loss']
const HELD_AGAINST = ['test/vote_accuracy', 'eval/vote_accuracy']

function figure(model: Model): ReactNode {
  const name = FIGURES.find((candidate) => typeof model.metrics[candidate] === 'number')
  if (!name) return '–'
  const low = model.metrics[`${name}_low`]
  const high = model.metrics[`${name}_high`]
  const range = typeof low === 'number' && typeof high === 'number' ? ` [${measured(low)}, ${measured(high)}]` : ''
  const against = HELD_AGAINST.find((candidate) => typeof model.metrics[candidate] === 'number')
  return (
    <>
      {`${name} ${measured(model.metrics[name])}${range}`}
      {against && <OfCeiling name={against} value={model.metrics[against]} of={model.ceiling} />}
    </>
  )
}

export default function Models() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const operator = useQuery(sessionQuery()).data?.user?.is_operator ?? false
  const [search, setSearch] = useSearchParams()
  const kind: Kind = KINDS.find((value) => value === search.get('kind')) ?? 'policy'
  const list = useInfiniteQuery(modelsQuery(slug))
  const [adding, setAdding] = useState(false)

  const columns: Column<Model>[] = [
    {
      name: 'name',
      header: t('models.name'),
      wrap: true,
      cell: (model) => (
        <>
          <strong id={model.id}>{model.name}</strong>
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
      cell: (model) => model.base?.name ?? t(`models.source.${model.source}`),
    },
    {
      name: 'lineage',
      header: t('models.lineage'),
      cell: (model) =>
        model.job || model.snapshot ? (
          <>
            {model.job && <Link href={`/r/${slug}/jobs/${model.job}`}>{t('models.job')}</Link>}
            {model.job && model.snapshot && ' · '}
            {model.snapshot && <Link href={`/r/${slug}/snapshots/${model.snapshot}`}>{t('snapshot.one')}</Link>}
            {model.step !== null && <span className="muted"> · {t('chart.step', { step: model.step })}</span>}
          </>
        ) : (
          <span className="muted">{t('models.given')}</span>
        ),
    },
    { name: 'figure', header: t('job.figure'), cell: figure },
    {
      name: 'size',
      header: t('models.size'),
      cell: (model) => (
        <>
          {model.parameters === null ? '–' : t('models.parametersShort', { n: short(model.parameters) })}
          <div className="muted small">{bytes(model.size_bytes)}</div>
        </>
      ),
    },
    { name: 'created', header: t('models.created'), cell: (model) => <Time at={model.created_at} /> },
    {
      name: 'actions',
      header: '',
      align: 'end',
      cell: (model) =>
        canManage && model.kind === 'policy' ? (
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
        onSelect={(value) =>
          setSearch((params) => {
            params.set('kind', value)
            return params
          })
        }
      >
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
              const rows = all.filter((model) => model.kind === kind)
              return rows.length === 0 ? (
                <Empty icon={Boxes} title={t(`models.none.${kind}`)}>
                  {t(`models.noneText.${kind}`)}
                </Empty>
              ) : (
                <DataTable
                  caption={t(`models.kind.${kind}`)}
                  columns={columns}
                  rows={rows}
                  rowKey={(model) => model.id}
                  more={list}
                />
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
  const register = useMutation({
    mutationFn: () => registerModel(slug, { name: name.trim(), [from]: place.trim() }),
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
      {register.isError && Object.keys(errors).length === 0 && (
        <ErrorPanel what={t('models.registerFailed')} error={register.error} />
      )}
    </Dialog>
  )
}
