/** Comparisons whose answer is known: what each is for, how it was answered, and three ways to make more. */
import { useInfiniteQuery } from '@tanstack/react-query'
import { Target } from 'lucide-react'
import { useState } from 'react'
import { useMembership } from 'src/api/membership'
import { constructGold, explainGold, goldQuery, promoteGold, retireGold } from 'src/api/quality'
import type { Gold, GoldConstructRequest } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { GiveGold } from 'src/quality/GiveGold'
import { goldText, optionsOfUse, USES, type Use } from 'src/quality/golds'
import { Conversation, promptLine } from 'src/ui/content/Conversation'
import { count, DASH, typedNumber } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { useAddress } from 'src/ui/useAddress'
import { Badge, Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { ChoiceCard, ChoiceGroup, SelectField, TextArea, TextField } from 'src/ui/widgets/Field'
import { Filters } from 'src/ui/widgets/Filters'
import { FormDialog } from 'src/ui/widgets/FormDialog'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Page } from 'src/ui/widgets/Page'
import { ErrorPanel, Notice } from 'src/ui/widgets/States'
import { useParams } from 'wouter'

type Making = 'give' | 'construct' | 'promote'

export default function Golds() {
  const { slug = '' } = useParams<{ slug: string }>()
  const { canManage } = useMembership(slug)
  const [search, change] = useAddress()
  const use = USES.find((name) => name === search.get('use')) ?? ''
  const list = useInfiniteQuery(goldQuery(slug, { use }))
  const [making, setMaking] = useState<Making | null>(null)
  const [made, setMade] = useState<number | null>(null)
  const [open, setOpen] = useState<Gold | null>(null)
  const retire = useWrite(slug, (id: string) => retireGold(slug, id))
  const done = (n: number) => {
    setMaking(null)
    setMade(n)
  }
  const columns: Column<Gold>[] = [
    {
      name: 'prompt',
      header: t('comparisons.prompt'),
      wrap: true,
      cell: (row) => (
        <Button look="text" onClick={() => setOpen(row)}>
          {promptLine(row.prompt, 90)}
        </Button>
      ),
    },
    { name: 'use', header: t('gold.use'), cell: (row) => <Badge>{t(`gold.use.${row.use}`)}</Badge> },
    { name: 'origin', header: t('gold.origin'), cell: (row) => t(`gold.origin.${row.origin}`) },
    { name: 'answer', header: t('gold.answer'), cell: (row) => goldText(row.answer) },
    {
      name: 'right',
      header: t('gold.right'),
      align: 'end',
      cell: (row) => (row.answers === 0 ? DASH : t('gold.rightOf', { right: row.right, answers: row.answers })),
    },
    {
      name: 'objections',
      header: t('gold.objections'),
      align: 'end',
      cell: ({ objections }) =>
        objections.length === 0 ? DASH : <Badge tone="warn">{count(objections.length)}</Badge>,
    },
    {
      name: 'retire',
      header: '',
      tools: true,
      align: 'end',
      cell: (row) =>
        row.retired_at ? (
          <Badge>{t('gold.retired')}</Badge>
        ) : (
          canManage && (
            <Button
              small
              look="danger"
              busy={retire.isPending && retire.variables === row.id}
              onClick={() => retire.mutate(row.id)}
            >
              {t('gold.retire')}
            </Button>
          )
        ),
    },
  ]
  return (
    <Page
      title={t('nav.gold')}
      intro={t('gold.intro')}
      actions={
        canManage && (
          <>
            <Button onClick={() => setMaking('promote')}>{t('gold.promote')}</Button>
            <Button onClick={() => setMaking('construct')}>{t('gold.construct')}</Button>
            <Button look="primary" onClick={() => setMaking('give')}>
              {t('gold.give')}
            </Button>
          </>
        )
      }
    >
      <Filters
        label={t('gold.filter')}
        options={[['', t('comparisons.all')], ...USES.map((name) => [name, t(`gold.use.${name}`)] as const)]}
        value={use}
        onChoose={(name) => change({ use: name })}
      />
      {made !== null && (
        <Notice tone={made > 0 ? 'ok' : 'warn'} role="status">
          {t('gold.made', { n: made })}
        </Notice>
      )}
      {retire.isError && <ErrorPanel what={t('error.action')} error={retire.error} />}
      <ListCard
        title={t('nav.gold')}
        query={list}
        failed={t('gold.failed')}
        columns={columns}
        rowKey={(row) => row.id}
        empty={{ icon: Target, title: t('gold.none'), text: t('gold.noneText') }}
      />
      {making === 'give' && <GiveGold slug={slug} onClose={() => setMaking(null)} onGiven={() => done(1)} />}
      {making === 'construct' && <Construct slug={slug} onClose={() => setMaking(null)} onMade={done} />}
      {making === 'promote' && <Promote slug={slug} onClose={() => setMaking(null)} onMade={done} />}
      {open && <Detail slug={slug} gold={open} onClose={() => setOpen(null)} />}
    </Page>
  )
}

type MakeProps = { slug: string; onClose: () => void; onMade: (n: number) => void }
type Kind = GoldConstructRequest['kinds'][number]
const MOST_SEED = 2 ** 31 - 1
const KINDS: Kind[] = ['truncated', 'off_topic', 'wrong_language']

function UseField({ use, onUse }: { use: Use; onUse: (use: Use) => void }) {
  return (
    <SelectField
      label={t('gold.use')}
      help={t('gold.useHelp')}
      value={use}
      options={optionsOfUse()}
      onChange={(event) => onUse(event.target.value as Use)}
    />
  )
}

function Construct({ slug, onClose, onMade }: MakeProps) {
  const [kinds, setKinds] = useState<Kind[]>(KINDS)
  const [n, setN] = useState('10')
  const [use, setUse] = useState<Use>('hidden')
  const make = useWrite(
    slug,
    // Drawn anew each time: the same draw would find its comparisons taken.
    () => constructGold(slug, { kinds, n: Number(n), use, seed: Math.floor(Math.random() * MOST_SEED) }),
    ({ made }) => onMade(made),
  )
  return (
    <FormDialog
      title={t('gold.construct')}
      submit={t('gold.constructNow')}
      busy={make.isPending}
      error={make.error}
      failed={t('gold.makeFailed')}
      onSubmit={() => make.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <ChoiceGroup legend={t('gold.kinds')} error={errors.kinds}>
            {KINDS.map((kind) => (
              <ChoiceCard
                key={kind}
                kind="checkbox"
                label={t(`gold.kind.${kind}`)}
                note={t(`gold.kind.${kind}.note`)}
                checked={kinds.includes(kind)}
                onChange={(event) =>
                  setKinds(event.target.checked ? [...kinds, kind] : kinds.filter((other) => other !== kind))
                }
              />
            ))}
          </ChoiceGroup>
          <TextField
            label={t('gold.each')}
            type="number"
            min={1}
            error={errors.n}
            value={n}
            onChange={(event) => setN(event.target.value)}
          />
          <UseField use={use} onUse={setUse} />
        </>
      )}
    </FormDialog>
  )
}

function Promote({ slug, onClose, onMade }: MakeProps) {
  const [votes, setVotes] = useState('3')
  const [share, setShare] = useState('100')
  const [most, setMost] = useState('50')
  const [use, setUse] = useState<Use>('hidden')
  const make = useWrite(
    slug,
    () => promoteGold(slug, { votes: Number(votes), top_share: typedNumber(share) / 100, most: Number(most), use }),
    ({ made }) => onMade(made),
  )
  return (
    <FormDialog
      title={t('gold.promote')}
      submit={t('gold.promoteNow')}
      busy={make.isPending}
      error={make.error}
      failed={t('gold.makeFailed')}
      onSubmit={() => make.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <p className="muted">{t('gold.promoteText')}</p>
          <TextField
            label={t('gold.votes')}
            type="number"
            error={errors.votes}
            value={votes}
            onChange={(event) => setVotes(event.target.value)}
          />
          <TextField
            label={t('gold.share')}
            unit="%"
            error={errors.top_share}
            value={share}
            onChange={(event) => setShare(event.target.value)}
          />
          <TextField
            label={t('gold.most')}
            type="number"
            error={errors.most}
            value={most}
            onChange={(event) => setMost(event.target.value)}
          />
          <UseField use={use} onUse={setUse} />
        </>
      )}
    </FormDialog>
  )
}

function Detail({ slug, gold, onClose }: { slug: string; gold: Gold; onClose: () => void }) {
  const [text, setText] = useState(gold.explanation)
  const save = useWrite(slug, () => explainGold(slug, gold.id, text), onClose)
  return (
    <FormDialog
      title={t('gold.one')}
      width={860}
      submit={t('action.save')}
      busy={save.isPending}
      error={save.error}
      failed={t('error.action')}
      onSubmit={() => save.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <Conversation turns={gold.prompt} prefix={gold.id} compact />
          {gold.completions.map((completion, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: completions stand in their stored order.
            <Notice key={index}>
              <strong>{String.fromCharCode(65 + index)}</strong> {completion}
            </Notice>
          ))}
          <p>
            <strong>{t('gold.answer')}:</strong> {goldText(gold.answer)} ·{' '}
            {t('gold.rightOf', { right: gold.right, answers: count(gold.answers) })}
          </p>
          {gold.objections.map((objection) => (
            <Notice key={objection.annotator} tone="warn">
              <strong>{t('gold.objectionBy', { who: objection.annotator })}</strong> <Time at={objection.created_at} />
              <div dir="auto">{objection.text}</div>
            </Notice>
          ))}
          <TextArea
            label={t('gold.explanation')}
            help={t('gold.explanationHelp')}
            rows={4}
            error={errors.explanation}
            value={text}
            onChange={(event) => setText(event.target.value)}
          />
        </>
      )}
    </FormDialog>
  )
}
