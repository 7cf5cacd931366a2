/** Systems by strength, with intervals and ranks; by other models and under controls, beside the plain one. */
import { useQuery } from '@tanstack/react-query'
import { projectQuery } from 'src/api/queries'
import type { RankedSystem, RankingReport } from 'src/api/schema'
import { MODELS, rankingQuery, rankingSource } from 'src/api/statistics'
import { EloCurves } from 'src/statistics/EloCurves'
import { ReportCard } from 'src/statistics/Report'
import styles from 'src/statistics/Statistics.module.css'
import { Strengths } from 'src/statistics/Strengths'
import { useChoice } from 'src/statistics/useChoice'
import { usePart } from 'src/statistics/usePart'
import { WinRates } from 'src/statistics/WinRates'
import { Figure } from 'src/ui/charts/Estimate'
import { count, DASH } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { Page } from 'src/ui/widgets/Page'
import { useParams, useSearchParams } from 'wouter'

/** What a ranking can be freed from; `people`: from the reliability and the side bias of each annotator. */
const CONTROLS = ['side', 'length', 'style', 'people'] as const

export default function Ranking() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search, setSearch] = useSearchParams()
  const [model, setModel] = useChoice('model', MODELS)
  const criteria = useQuery(projectQuery(slug)).data?.form.criteria ?? []
  const [criterion, setCriterion] = useChoice('criterion', ['', ...criteria.map(({ key }) => key)])
  const asked = (search.get('controls') ?? '').split(',')
  const controls = CONTROLS.filter((name) => asked.includes(name))
  const source = rankingSource(slug, {
    model,
    controls: controls.join(',') || undefined,
    criterion: criterion || undefined,
  })
  const report = useQuery(rankingQuery(source))
  const card = { source, query: report }
  const toggle = (name: string, on: boolean) =>
    setSearch((params) => {
      const chosen = CONTROLS.filter((one) => (one === name ? on : controls.includes(one)))
      if (chosen.length > 0) params.set('controls', chosen.join(','))
      else params.delete('controls')
      return params
    })
  return (
    <Page title={t('nav.ranking')} intro={t('ranking.intro')}>
      <ReportCard
        title={t('ranking.title')}
        flush
        {...card}
        filters={
          <>
            <SelectField
              label={t('ranking.model')}
              value={model}
              onChange={(event) => setModel(event.target.value)}
              options={MODELS.map((name) => [name, t(`ranking.model.${name}`)])}
            />
            {criteria.length > 0 && (
              <SelectField
                label={t('ranking.criterion')}
                value={criterion}
                onChange={(event) => setCriterion(event.target.value)}
                options={[
                  ['', t('ranking.mainQuestion')],
                  ...criteria.map(({ key, label }): [string, string] => [key, label]),
                ]}
              />
            )}
            <ScaleChoice systems={report.data?.systems ?? []} />
            <fieldset className={styles.checks}>
              <legend>{t('ranking.controls')}</legend>
              {CONTROLS.map((name) => (
                <label key={name} className={styles.check}>
                  <input
                    type="checkbox"
                    checked={controls.includes(name)}
                    onChange={(event) => toggle(name, event.target.checked)}
                  />
                  {t(`ranking.control.${name}`)}
                </label>
              ))}
            </fieldset>
          </>
        }
      >
        {(found) => <Strengths report={found} />}
      </ReportCard>
      {report.data && report.data.systems.length > 0 && (
        <>
          {report.data.effects.length > 0 && (
            <ReportCard table="effects" title={t('ranking.effects')} note={t('ranking.effectsNote')} flush {...card}>
              {({ effects }) => (
                <DataTable
                  caption={t('ranking.effects')}
                  columns={effectColumns()}
                  rows={effects}
                  rowKey={({ control }) => control}
                />
              )}
            </ReportCard>
          )}
          {report.data.annotators.length > 0 && (
            <ReportCard
              table="annotators"
              title={t('ranking.annotators')}
              note={t('ranking.annotatorsNote')}
              flush
              {...card}
            >
              {({ annotators }) => <Annotators annotators={annotators} />}
            </ReportCard>
          )}
          <ReportCard table="win_rates" title={t('winRates.title')} note={t('winRates.note')} {...card}>
            {(found) => <WinRates report={found} />}
          </ReportCard>
          <ReportCard table="elo" title={t('elo.title')} note={t('elo.note')} {...card}>
            {(found) => <EloCurves report={found} />}
          </ReportCard>
        </>
      )}
    </Page>
  )
}

/** Logits, or the Elo scale on which a named system has 1000. */
function ScaleChoice({ systems }: { systems: RankedSystem[] }) {
  const [scale, setScale] = useChoice('scale', ['', ...systems.map(({ id }) => id)])
  return (
    <SelectField
      label={t('ranking.scale')}
      value={scale}
      onChange={(event) => setScale(event.target.value)}
      options={[
        ['', t('ranking.logits')],
        ...systems
          .filter(({ plain }) => plain.strength !== null)
          .map(({ id, name }): [string, string] => [id, t('ranking.eloOf', { name })]),
      ]}
    />
  )
}

const effectColumns = (): Column<RankingReport['effects'][number]>[] => [
  { name: 'control', header: t('ranking.controls'), cell: ({ control }) => t(`ranking.control.${control}`) },
  { name: 'effect', header: t('bias.effect'), cell: ({ effect }) => <Figure of={effect} unit="coefficient" /> },
]

const annotatorColumns = (): Column<RankingReport['annotators'][number]>[] => [
  { name: 'name', header: t('people.name'), cell: ({ name, pseudonym }) => <strong>{name || pseudonym}</strong> },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: ({ votes }) => count(votes) },
  { name: 'follows', header: t('ranking.follows'), cell: ({ follows }) => <Figure of={follows} /> },
  {
    name: 'side',
    header: t('bias.side'),
    cell: ({ side_bias }) => (side_bias ? <Figure of={side_bias} unit="coefficient" /> : DASH),
  },
]

function Annotators({ annotators }: { annotators: RankingReport['annotators'] }) {
  const part = usePart(annotators)
  return <DataTable caption={t('ranking.annotators')} columns={annotatorColumns()} rowKey={({ id }) => id} {...part} />
}
