/** Let completions that are there meet: a strategy, what it would make, then the comparisons. */
import { useQuery } from '@tanstack/react-query'
import { GitCompareArrows } from 'lucide-react'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import type { Pairs, PairsAskRequest, Source } from 'src/api/schema'
import { makePairs, sourcesQuery } from 'src/api/setup'
import { useWrite } from 'src/api/useWrite'
import { promptLine } from 'src/ui/content/Conversation'
import { count, typedNumber } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Badge } from 'src/ui/widgets/Bits'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { ChoiceCard, ChoiceGroup, SelectField, TextField } from 'src/ui/widgets/Field'
import { ListCard } from 'src/ui/widgets/ListCard'
import { Card, Columns, Facts, Page, Row, Stack } from 'src/ui/widgets/Page'
import { SourcesField } from 'src/ui/widgets/SourcesField'
import { ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'
import { readTags, TagsField } from 'src/ui/widgets/TagsField'
import { useParams } from 'wouter'

type Strategy = PairsAskRequest['strategy']
const STRATEGIES: Strategy[] = [
  'all',
  'random',
  'cross_source',
  'closest_score',
  'most_different',
  'balanced',
  'information',
  'disagreement',
]
/** Those that choose across prompts, always beside a random control. */
const BY_INFORMATION: Strategy[] = ['information', 'disagreement']
type Objective = NonNullable<PairsAskRequest['objective']>
const OBJECTIVES: Objective[] = ['order', 'strength']

const numberOr = <T,>(text: string, otherwise: T): number | T => (text.trim() === '' ? otherwise : typedNumber(text))

export default function Pairing() {
  const { slug = '' } = useParams<{ slug: string }>()
  const sources = useQuery(sourcesQuery(slug))
  return (
    <Page title={t('nav.pairing')} intro={t('pairing.intro')}>
      <Loaded query={sources} what={t('pairing.sourcesFailed')}>
        {(rows) => <Planner slug={slug} sources={rows} />}
      </Loaded>
    </Page>
  )
}

function Planner({ slug, sources }: { slug: string; sources: Source[] }) {
  const [strategy, setStrategy] = useState<Strategy>('random')
  const [perPrompt, setPerPrompt] = useState('1')
  const [chosen, setChosen] = useState<string[]>(() => sources.map(({ id }) => id))
  const [scorer, setScorer] = useState('')
  const [scorers, setScorers] = useState('')
  const [objective, setObjective] = useState<Objective>('order')
  const [total, setTotal] = useState('100')
  const [control, setControl] = useState('0.1')
  const [seed, setSeed] = useState('1')
  const [overlap, setOverlap] = useState('')
  const [priority, setPriority] = useState('0')
  const [category, setCategory] = useState('')
  const [language, setLanguage] = useState('')
  const [skills, setSkills] = useState('')
  const [made, setMade] = useState<Pairs | null>(null)
  const isChosen = BY_INFORMATION.includes(strategy)
  const body = (preview: boolean): PairsAskRequest => ({
    strategy,
    per_prompt: numberOr(perPrompt, null),
    sources: chosen,
    ...(strategy === 'closest_score' ? { scorer: scorer.trim() } : {}),
    ...(strategy === 'information' ? { objective } : {}),
    ...(strategy === 'disagreement' ? { scorers: readTags(scorers) } : {}),
    ...(isChosen ? { total: numberOr(total, null), control_share: numberOr(control, 0.1) } : {}),
    seed: numberOr(seed, 1),
    overlap: numberOr(overlap, null),
    priority: numberOr(priority, 0),
    skills: readTags(skills),
    prompts: {
      ...(category.trim() ? { category: category.trim() } : {}),
      ...(language.trim() ? { language: language.trim() } : {}),
    },
    preview,
  })
  const run = useWrite(
    slug,
    (preview: boolean) => makePairs(slug, body(preview)),
    (pairs, preview) => {
      setMade(preview ? null : pairs)
    },
  )
  const errors = fieldErrors(run.error)
  const preview = run.data && !made ? run.data : null
  const field = (label: string, help: string, value: string, set: (value: string) => void, error?: string) => (
    <TextField label={label} help={help} error={error} value={value} onChange={(event) => set(event.target.value)} />
  )
  return (
    <Stack>
      <Columns width={360}>
        <Card title={t('pairing.strategy')}>
          <ChoiceGroup titled legend={t('pairing.strategy')} error={errors.strategy}>
            {STRATEGIES.map((name) => (
              <ChoiceCard
                key={name}
                kind="radio"
                name="strategy"
                label={t(`pairing.${name}`)}
                note={t(`pairing.${name}.note`)}
                checked={strategy === name}
                onChange={() => setStrategy(name)}
              />
            ))}
          </ChoiceGroup>
        </Card>
        <Card title={t('pairing.terms')}>
          <SourcesField sources={sources} chosen={chosen} error={errors.sources} onChange={setChosen} />
          {strategy === 'closest_score' &&
            field(t('pairing.scorer'), t('pairing.scorerHelp'), scorer, setScorer, errors.scorer)}
          {strategy === 'information' && (
            <SelectField
              label={t('pairing.objective')}
              help={t(`pairing.objective.${objective}.help`)}
              error={errors.objective}
              value={objective}
              onChange={(event) => setObjective(event.target.value === 'strength' ? 'strength' : 'order')}
              options={OBJECTIVES.map((name): [string, string] => [name, t(`pairing.objective.${name}`)])}
            />
          )}
          {strategy === 'disagreement' && (
            <TagsField
              label={t('pairing.scorers')}
              help={t('pairing.scorersHelp')}
              error={errors.scorers}
              value={scorers}
              onChange={setScorers}
            />
          )}
          <Columns width={150}>
            {isChosen && field(t('pairing.total'), t('pairing.totalHelp'), total, setTotal, errors.total)}
            {isChosen &&
              field(t('pairing.control'), t('pairing.controlHelp'), control, setControl, errors.control_share)}
            {field(t('pairing.perPrompt'), t('pairing.perPromptHelp'), perPrompt, setPerPrompt, errors.per_prompt)}
            {field(t('round.overlapField'), t('round.overlapHelp'), overlap, setOverlap, errors.overlap)}
            {field(t('pairing.priority'), t('pairing.priorityHelp'), priority, setPriority, errors.priority)}
            {field(t('round.seedField'), t('pairing.seedHelp'), seed, setSeed, errors.seed)}
            {field(t('prompts.category'), t('pairing.onlyHelp'), category, setCategory, errors['prompts.category'])}
            {field(t('pairing.language'), t('pairing.onlyHelp'), language, setLanguage, errors['prompts.language'])}
          </Columns>
          <TagsField
            label={t('pairing.skills')}
            help={t('pairing.skillsHelp')}
            error={errors.skills}
            value={skills}
            onChange={setSkills}
          />
          <Row>
            <Button look="primary" busy={run.isPending} onClick={() => run.mutate(true)}>
              {t('pairing.preview')}
            </Button>
            {preview && (
              <Button busy={run.isPending} disabled={preview.comparisons === 0} onClick={() => run.mutate(false)}>
                {t('pairing.make', { n: preview.comparisons })}
              </Button>
            )}
          </Row>
        </Card>
      </Columns>
      {run.isError && <ErrorPanel what={t('pairing.failed')} error={run.error} />}
      {made && (
        <Notice
          tone="ok"
          role="status"
          action={
            <LinkButton small href={`/r/${slug}/comparisons${made.origin ? `?round=${made.origin}` : ''}`}>
              {t('round.seeComparisons')}
            </LinkButton>
          }
        >
          {t('pairing.made', { n: made.comparisons })}
        </Notice>
      )}
      {preview && <Preview pairs={preview} />}
    </Stack>
  )
}

type Example = Pairs['examples'][number]

function Preview({ pairs }: { pairs: Pairs }) {
  const columns: Column<Example>[] = [
    {
      name: 'prompt',
      header: t('comparisons.prompt'),
      wrap: true,
      cell: (row) => (
        <>
          {promptLine(row.prompt, 100)} {row.arm && <Badge>{t(`arm.${row.arm}`)}</Badge>}
        </>
      ),
    },
    {
      name: 'completions',
      header: t('funnel.completions'),
      wrap: true,
      cell: (row) =>
        row.completions.map(({ source, text }) => (
          <div key={source + text}>
            <strong>{source}</strong> <span className="muted">{text.slice(0, 120)}</span>
          </div>
        )),
    },
  ]
  return (
    <>
      <Card title={t('pairing.would')}>
        <Facts
          items={[
            [t('funnel.comparisons'), count(pairs.comparisons)],
            [t('pairing.existing'), count(pairs.existing)],
            [t('funnel.prompts'), count(pairs.prompts)],
            [t('pairing.alone'), count(pairs.alone)],
          ]}
        />
      </Card>
      <ListCard
        title={t('pairing.examples')}
        showTitle
        query={{ data: pairs.examples, error: null, isFetching: false, isPending: false, refetch: () => undefined }}
        failed={t('pairing.failed')}
        columns={columns}
        rowKey={(row) => JSON.stringify(row.completions) + promptLine(row.prompt)}
        empty={{ icon: GitCompareArrows, title: t('pairing.noExamples') }}
      />
    </>
  )
}
