/** One dispute: texts, the own answer, then votes and the ruling. */
import { useQuery } from '@tanstack/react-query'
import { useMemo, useState } from 'react'
import { answerDispute, disputeVotesQuery, escalate, reopen, rule } from 'src/api/adjudication'
import { fieldErrors } from 'src/api/errors'
import type { DisputeDetail, DisputeVotes, Form } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import styles from 'src/review/Adjudicate.module.css'
import { draftOfStored, rulingForm, said, storedText } from 'src/review/stored'
import { type Draft, emptyDraft, letterOf, lettersOf, place, takeBack } from 'src/ui/answer/answer'
import { Choices } from 'src/ui/answer/Choices'
import { labelOf } from 'src/ui/answer/fields'
import { Ranking } from 'src/ui/answer/Ranking'
import { Conversation } from 'src/ui/content/Conversation'
import { Markdown, Marked } from 'src/ui/content/Markdown'
import { DifferencesNotice, useDifferences } from 'src/ui/content/useDifferences'
import { FormattingNotice, useFormatting } from 'src/ui/content/useFormatting'
import { t } from 'src/ui/i18n/t'
import { KeyCap } from 'src/ui/keys/KeySheet'
import { type ActionName, action, keyOf } from 'src/ui/keys/keymap'
import { useKeys } from 'src/ui/keys/useKeys'
import { Badge, Time } from 'src/ui/widgets/Bits'
import { Button } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { DataTable } from 'src/ui/widgets/DataTable'
import { ChoiceCard, TextArea } from 'src/ui/widgets/Field'
import { Card, Row, Stack } from 'src/ui/widgets/Page'
import { ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'

type Props = { slug: string; dispute: DisputeDetail; onDone: () => void }

export function DisputeView({ slug, dispute, onDone }: Props) {
  const { id, prompt, completions, my_answer, requests, flags, question } = dispute
  const texts = useMemo(() => completions.map(({ text }) => text), [completions])
  const formatting = useFormatting(texts)
  const [shown, setShown] = useState<'formatted' | 'source' | 'differences'>('formatted')
  const found = useDifferences(texts, shown === 'differences')
  const show = (way: typeof shown) => () => setShown(shown === way ? 'formatted' : way)
  const tools: [ActionName, typeof shown][] = [['source', 'source']]
  if (completions.length === 2) tools.push(['differences', 'differences'])
  useKeys(['task'], Object.fromEntries(tools.map(([name, way]) => [name, show(way)])))
  return (
    <Stack>
      <Card title={question}>
        <Conversation turns={prompt} prefix={`${id}-p`} compact />
        <div className={styles.texts}>
          {completions.map(({ letter, text, finish }, index) => (
            <section
              key={letter}
              className={styles.text}
              aria-label={t('task.response', { letter: letter.toUpperCase() })}
            >
              <h3>{t('task.response', { letter: letter.toUpperCase() })}</h3>
              {found ? (
                <Marked parts={index === 0 ? found.left : found.right} />
              ) : (
                <Markdown
                  text={text}
                  prefix={`${id}-${letter}-`}
                  mode={shown === 'source' ? 'source' : formatting.mode}
                  onBroken={formatting.onBroken}
                />
              )}
              {finish === 'length' && <p className="muted small">{t('comparisons.cut')}</p>}
            </section>
          ))}
        </div>
        <Row>
          {tools.map(([name, way]) => (
            <Button key={name} small look="quiet" aria-pressed={shown === way} onClick={show(way)}>
              <KeyCap name={keyOf(name, ['task'])} />
              {t(action(name).label)}
            </Button>
          ))}
        </Row>
        {shown === 'differences' ? <DifferencesNotice found={found} /> : <FormattingNotice of={formatting} />}
        {[...requests, ...flags].map((item) => (
          <Notice key={item.created_at + item.kind}>
            <Badge>{item.kind}</Badge> {'reason' in item ? item.reason : item.note} <Time at={item.created_at} />
          </Notice>
        ))}
      </Card>
      {my_answer === null ? (
        <FirstAnswer slug={slug} dispute={dispute} />
      ) : (
        <Decision slug={slug} dispute={dispute} onDone={onDone} />
      )}
    </Stack>
  )
}

type PickerProps = { dispute: DisputeDetail; draft: Draft; onDraft: (draft: Draft) => void }

/** A choice of two, or an order of more; the same keys as on the annotator's page. */
function Picker({ dispute, draft, onDraft }: PickerProps) {
  const size = dispute.completions.length
  const form = rulingForm(dispute.form, size)
  const [tieNext, setTieNext] = useState(false)
  const choose = (choice: Draft['choice']) => () => onDraft({ ...draft, choice })
  const rank = (ranking: string[][], next: boolean) => {
    onDraft({ ...draft, ranking })
    setTieNext(next)
  }
  const places = Object.fromEntries(
    lettersOf(size).map((letter, index) => [
      `place${index + 1}`,
      () => rank(place(draft.ranking, letter, tieNext), false),
    ]),
  )
  useKeys(
    size === 2 ? ['choice'] : ['rank'],
    size === 2
      ? { chooseLeft: choose('left'), chooseRight: choose('right'), chooseTie: choose('tie') }
      : { ...places, takeBack: () => rank(takeBack(draft.ranking), false) },
  )
  if (size === 2) {
    return (
      <Choices
        form={form}
        draft={draft}
        question={dispute.question}
        onChoose={({ choice }) => onDraft({ ...draft, choice })}
      />
    )
  }
  return <Ranking letters={lettersOf(size)} ranking={draft.ranking} ties tieNext={tieNext} onRank={rank} />
}

function FirstAnswer({ slug, dispute }: { slug: string; dispute: DisputeDetail }) {
  const [draft, setDraft] = useState(emptyDraft)
  const body = said(draft, dispute.completions.length)
  const answer = useWrite(slug, (given: NonNullable<typeof body>) => answerDispute(slug, dispute.id, given))
  return (
    <Card title={t('adjudicate.first')} note={t('adjudicate.firstNote')}>
      <Picker dispute={dispute} draft={draft} onDraft={setDraft} />
      {answer.isError && <ErrorPanel what={t('error.action')} error={answer.error} />}
      <Row>
        <Button
          look="primary"
          disabled={body === null}
          busy={answer.isPending}
          onClick={() => body && answer.mutate(body)}
        >
          {t('adjudicate.store')}
        </Button>
      </Row>
    </Card>
  )
}

function Decision({ slug, dispute, onDone }: Props) {
  const votes = useQuery(disputeVotesQuery(slug, dispute.id, true))
  return (
    <>
      <Loaded query={votes} what={t('adjudicate.votesFailed')}>
        {(found) => <Votes form={dispute.form} found={found} />}
      </Loaded>
      <Ruling slug={slug} dispute={dispute} onDone={onDone} />
    </>
  )
}

type VoteRow = DisputeVotes['votes'][number]

function Votes({ form, found }: { form: Form; found: DisputeVotes }) {
  const columns: Column<VoteRow & { n: number }>[] = [
    { name: 'answer', header: t('adjudicate.vote'), cell: (row) => storedText(row) },
    {
      name: 'criteria',
      header: t('formBuilder.criteria'),
      wrap: true,
      cell: (row) =>
        Object.entries(row.criteria)
          .map(([key, value]) => `${labelOf(form.criteria, key)}: ${String(value)}`)
          .join(', '),
    },
    {
      name: 'reasons',
      header: t('words.reasons'),
      wrap: true,
      cell: (row) => row.reasons.map((key) => labelOf(form.reasons, key)).join(', '),
    },
    { name: 'why', header: t('words.why'), wrap: true, cell: (row) => row.rationale },
  ]
  return (
    <Card flush title={t('adjudicate.votes')} note={t('adjudicate.mine', { answer: storedText(found.my_answer) })}>
      <DataTable
        caption={t('adjudicate.votes')}
        columns={columns}
        rows={found.votes.map((vote, n) => ({ ...vote, n }))}
        rowKey={(row) => letterOf(row.n)}
      />
      {found.history.length > 0 && (
        <ul className={styles.history}>
          {found.history.map((fact) => (
            <li key={fact.id}>
              <Badge>{t(`adjudicate.kind.${fact.kind}`)}</Badge> {fact.answer && storedText(fact.answer)} {fact.reason}{' '}
              {fact.mine && <span className="muted">({t('adjudicate.yours')})</span>} <Time at={fact.created_at} />
            </li>
          ))}
        </ul>
      )}
    </Card>
  )
}

function Ruling({ slug, dispute, onDone }: Props) {
  const size = dispute.completions.length
  const [draft, setDraft] = useState(() => draftOfStored(dispute.my_answer))
  const [invalid, setInvalid] = useState(false)
  const [reason, setReason] = useState('')
  const [gold, setGold] = useState(false)
  const [explanation, setExplanation] = useState('')
  const body = invalid ? { invalid } : said(draft, size)
  const act = useWrite(slug, (work: () => Promise<unknown>) => work(), onDone)
  const errors = fieldErrors(act.error)
  const give = () => {
    if (!body) return
    act.mutate(() =>
      rule(slug, dispute.id, {
        ...body,
        reason: reason.trim(),
        ...(dispute.ruling ? { supersedes: dispute.ruling } : {}),
        ...(gold ? { make_gold: true, explanation } : {}),
      }),
    )
  }
  return (
    <Card
      title={dispute.ruling ? t('adjudicate.ruleAgain') : t('adjudicate.rule')}
      note={dispute.frozen && t('adjudicate.frozen')}
    >
      {!invalid && <Picker dispute={dispute} draft={draft} onDraft={setDraft} />}
      <ChoiceCard
        kind="checkbox"
        label={t('adjudicate.invalid')}
        note={t('adjudicate.invalidNote')}
        checked={invalid}
        onChange={(event) => setInvalid(event.target.checked)}
      />
      <TextArea
        label={t('adjudicate.reason')}
        help={t('adjudicate.reasonHelp')}
        rows={2}
        error={errors.reason}
        value={reason}
        onChange={(event) => setReason(event.target.value)}
      />
      {!invalid && (
        <ChoiceCard
          kind="checkbox"
          label={t('adjudicate.makeGold')}
          note={t('adjudicate.makeGoldNote')}
          checked={gold}
          onChange={(event) => setGold(event.target.checked)}
        />
      )}
      {gold && !invalid && (
        <TextArea
          label={t('gold.explanation')}
          rows={2}
          error={errors.explanation}
          value={explanation}
          onChange={(event) => setExplanation(event.target.value)}
        />
      )}
      {act.isError && <ErrorPanel what={t('error.action')} error={act.error} />}
      <Row>
        <Button look="primary" disabled={body === null || reason.trim() === ''} busy={act.isPending} onClick={give}>
          {t('adjudicate.give')}
        </Button>
        <Button
          disabled={reason.trim() === ''}
          busy={act.isPending}
          onClick={() => act.mutate(() => escalate(slug, dispute.id, reason.trim()))}
        >
          {t('adjudicate.escalate')}
        </Button>
        {dispute.ruling && (
          <Button
            disabled={reason.trim() === ''}
            busy={act.isPending}
            onClick={() => act.mutate(() => reopen(slug, dispute.id, reason.trim()))}
          >
            {t('adjudicate.reopen')}
          </Button>
        )}
      </Row>
    </Card>
  )
}
