/** Ask policies, read what they write as it comes, and send it to annotators. */
import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query'
import { FlaskConical, Minus, Plus } from 'lucide-react'
import { type FormEvent, useState } from 'react'
import { apiPath } from 'src/api/client'
import { fieldErrors } from 'src/api/errors'
import { useMembership } from 'src/api/membership'
import { modelListQuery } from 'src/api/modelsApi'
import { askPlayground, playgroundListQuery, questionQuery } from 'src/api/playgroundApi'
import { at } from 'src/api/queries'
import type { Model, PlaygroundQuestion } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/training/Playground.module.css'
import { PlaygroundAnswers } from 'src/training/PlaygroundAnswers'
import {
  asCurl,
  askBody,
  type Draft,
  draftOf,
  MOST_POLICIES,
  NEW_DRAFT,
  roleOfTurn,
} from 'src/training/playgroundDraft'
import { promptLine, roleName } from 'src/ui/content/Conversation'
import { short } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { CopyBox, Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { ChoiceCard, ChoiceGroup, SelectField, TextArea, TextField } from 'src/ui/widgets/Field'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Card, Page, Row } from 'src/ui/widgets/Page'
import { Empty, ErrorPanel, Loaded, Notice, Skeleton } from 'src/ui/widgets/States'
import { Link, useParams, useSearchParams } from 'wouter'

export default function Playground() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, setSearch] = useSearchParams()
  const id = search.get('q') ?? ''
  const models = useInfiniteQuery(modelListQuery(slug, 'no'))
  const question = useQuery(questionQuery(slug, id))
  /** What was typed since the question in the address was opened; null: nothing. */
  const [typed, setTyped] = useState<Draft | null>(null)
  const draft = typed ?? (question.data ? draftOf(question.data) : NEW_DRAFT)
  const open = (next: string) => setSearch({ q: next })
  return (
    <Page title={t('nav.playground')} intro={t('playground.intro')}>
      <Card title={t('playground.question')}>
        {!canManage && <Notice>{t('playground.readOnly')}</Notice>}
        <Loaded query={models} what={t('playground.modelsFailed')} skeleton={<Skeleton rows={5} />}>
          {(all) =>
            all.some((model) => model.kind === 'policy') ? (
              <Form
                slug={slug}
                models={all}
                draft={draft}
                canAsk={canManage}
                onChange={setTyped}
                onAsked={(made) => {
                  setTyped(draft)
                  open(made)
                }}
              />
            ) : (
              <Empty
                icon={FlaskConical}
                title={t('playground.noPolicies')}
                action={<Link href={`/r/${slug}/policies`}>{t('nav.models')}</Link>}
              >
                {t('playground.noPoliciesText')}
              </Empty>
            )
          }
        </Loaded>
      </Card>
      {id === '' ? (
        <Card title={t('playground.answers')}>
          <Empty icon={FlaskConical} title={t('playground.nothingYet')}>
            {t('playground.nothingYetText')}
          </Empty>
        </Card>
      ) : (
        <Loaded query={question} what={t('playground.answersFailed')} skeleton={<Skeleton rows={6} />}>
          {(found) => <PlaygroundAnswers slug={slug} question={found} canManage={canManage} onGoOn={setTyped} />}
        </Loaded>
      )}
      <History
        slug={slug}
        onOpen={(next) => {
          setTyped(null)
          open(next)
        }}
      />
    </Page>
  )
}

type FormProps = {
  slug: string
  models: Model[]
  draft: Draft
  canAsk: boolean
  onChange: (draft: Draft) => void
  onAsked: (id: string) => void
}

function Form({ slug, models, draft, canAsk, onChange, onAsked }: FormProps) {
  const client = useQueryClient()
  const [tried, setTried] = useState(false)
  const ask = useWrite(
    slug,
    () => askPlayground(slug, askBody(draft)),
    (made) => {
      client.setQueryData(questionQuery(slug, made.id).queryKey, made)
      onAsked(made.id)
    },
  )
  const errors = fieldErrors(ask.error)
  const change = (part: Partial<Draft>) => onChange({ ...draft, ...part })
  const noPolicy = draft.policies.length === 0
  const noPrompt = draft.turns.some((turn) => turn.trim() === '')
  function submit(event: FormEvent) {
    event.preventDefault()
    setTried(true)
    if (canAsk && !noPolicy && !noPrompt && !ask.isPending) ask.mutate(undefined)
  }
  return (
    <form className={styles.form} onSubmit={submit} noValidate>
      <Policies
        policies={models.filter((model) => model.kind === 'policy')}
        chosen={draft.policies}
        error={errors.policies ?? errors.model ?? (tried && noPolicy ? t('playground.choose') : undefined)}
        onChange={(policies) => change({ policies })}
      />
      <Turns draft={draft} error={tried && noPrompt ? t('playground.promptMissing') : undefined} onChange={change} />
      <Sampling models={models} draft={draft} errors={errors} onChange={change} />
      {ask.isError && <ErrorPanel what={t('playground.askFailed')} error={ask.error} />}
      <Row>
        <Button look="primary" type="submit" busy={ask.isPending} disabled={!canAsk}>
          {noPolicy ? t('playground.askAny') : t('playground.ask', { n: draft.policies.length })}
        </Button>
      </Row>
      <details className={styles.more}>
        <summary>{t('playground.curl')}</summary>
        <CopyBox
          wrap
          label={t('playground.curl')}
          text={asCurl(`${window.location.origin}${apiPath(at(slug, 'playground'))}`, draft)}
        />
      </details>
    </form>
  )
}

type PoliciesProps = { policies: Model[]; chosen: string[]; error?: string; onChange: (chosen: string[]) => void }

function Policies({ policies, chosen, error, onChange }: PoliciesProps) {
  return (
    <ChoiceGroup legend={t('playground.policies', { n: MOST_POLICIES })} error={error}>
      {policies.map((model) => (
        <ChoiceCard
          key={model.id}
          kind="checkbox"
          label={model.is_current ? t('round.currentPolicy', { name: model.name }) : model.name}
          note={model.parameters !== null && t('models.parametersShort', { n: short(model.parameters) })}
          checked={chosen.includes(model.id)}
          disabled={!chosen.includes(model.id) && chosen.length >= MOST_POLICIES}
          onChange={(event) =>
            onChange(event.target.checked ? [...chosen, model.id] : chosen.filter((id) => id !== model.id))
          }
        />
      ))}
    </ChoiceGroup>
  )
}

type TurnsProps = { draft: Draft; error?: string; onChange: (part: Partial<Draft>) => void }

function Turns({ draft, error, onChange }: TurnsProps) {
  const { turns } = draft
  const write = (index: number, text: string) => onChange({ turns: turns.with(index, text) })
  return (
    <div className={styles.turns}>
      {turns.map((turn, index) => (
        <TextArea
          // biome-ignore lint/suspicious/noArrayIndexKey: turns are added and taken away at the end only.
          key={index}
          label={
            turns.length === 1
              ? t('playground.prompt')
              : t('playground.turn', { role: roleName(roleOfTurn(index)), n: index + 1 })
          }
          rows={turns.length === 1 ? 4 : 2}
          dir="auto"
          value={turn}
          error={turn.trim() === '' ? error : undefined}
          onChange={(event) => write(index, event.target.value)}
        />
      ))}
      <Row>
        <Button small onClick={() => onChange({ turns: [...turns, '', ''] })}>
          <Plus size={16} aria-hidden="true" />
          {t('playground.addTurn')}
        </Button>
        {turns.length > 1 && (
          <Button small onClick={() => onChange({ turns: turns.slice(0, -2) })}>
            <Minus size={16} aria-hidden="true" />
            {t('playground.removeTurn')}
          </Button>
        )}
      </Row>
      <details className={styles.more} open={draft.system !== '' || undefined}>
        <summary>{t('playground.system')}</summary>
        <TextArea
          label={t('playground.system')}
          help={t('playground.systemHelp')}
          rows={2}
          dir="auto"
          value={draft.system}
          onChange={(event) => onChange({ system: event.target.value })}
        />
      </details>
    </div>
  )
}

type SamplingProps = {
  models: Model[]
  draft: Draft
  errors: Record<string, string>
  onChange: (part: Partial<Draft>) => void
}

function Sampling({ models, draft, errors, onChange }: SamplingProps) {
  const numbers = [
    ['temperature', 'temperature', t('playground.temperature'), t('playground.temperatureHelp')],
    ['topP', 'top_p', t('playground.topP'), undefined],
    ['maxTokens', 'max_new_tokens', t('playground.maxTokens'), undefined],
    ['seed', 'seed', t('playground.seed'), t('playground.seedHelp')],
    ['completions', 'completions', t('playground.completions'), undefined],
  ] as const
  return (
    <div className={styles.numbers}>
      {numbers.map(([name, field, label, help]) => (
        <TextField
          key={name}
          inputMode="decimal"
          label={label}
          help={help}
          error={errors[field]}
          value={draft[name]}
          onChange={(event) => onChange({ [name]: event.target.value })}
        />
      ))}
      <SelectField
        label={t('playground.reward')}
        error={errors.reward}
        value={draft.reward}
        onChange={(event) => onChange({ reward: event.target.value })}
        options={[
          ['', t('playground.noReward')],
          ...models.filter((model) => model.kind === 'reward').map((model): [string, string] => [model.id, model.name]),
        ]}
      />
    </div>
  )
}

function History({ slug, onOpen }: { slug: string; onOpen: (id: string) => void }) {
  const list = useInfiniteQuery(playgroundListQuery(slug))
  const columns: Column<PlaygroundQuestion>[] = [
    {
      name: 'prompt',
      header: t('playground.prompt'),
      cell: (row) => (
        <button type="button" className={styles.open} dir="auto" onClick={() => onOpen(row.id)}>
          {promptLine(row.messages, 90)}
        </button>
      ),
    },
    {
      name: 'policies',
      header: t('playground.policiesColumn'),
      cell: (row) => <span className={styles.names}>{row.policies.map(({ name }) => name).join(', ')}</span>,
    },
    { name: 'by', header: t('playground.askedBy'), cell: (row) => row.created_by ?? '–' },
    { name: 'at', header: t('playground.asked'), cell: (row) => <Time at={row.created_at} /> },
    {
      name: 'sent',
      header: t('playground.sentColumn'),
      align: 'end',
      cell: (row) =>
        row.comparisons === null ? (
          '–'
        ) : (
          <Link
            href={`/r/${slug}/comparisons?round=${row.id}`}
            aria-label={`${t('playground.seeComparisons')}: ${row.comparisons}`}
          >
            {row.comparisons}
          </Link>
        ),
    },
  ]
  return (
    <ListCard
      title={t('playground.history')}
      showTitle
      query={list}
      failed={t('playground.historyFailed')}
      columns={columns}
      rowKey={(row) => row.id}
      empty={{ icon: FlaskConical, title: t('playground.historyNone') }}
    />
  )
}
