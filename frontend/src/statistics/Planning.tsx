/** What to do next: more votes, more pairs or a better guideline; and what a number of votes would tell. */
import { useQuery } from '@tanstack/react-query'
import { adviceQuery, adviceSource } from 'src/api/statistics'
import { Arms } from 'src/statistics/Arms'
import { CeilingFigures } from 'src/statistics/Ceiling'
import { PowerPlan } from 'src/statistics/PowerPlan'
import { ReportCard } from 'src/statistics/Report'
import styles from 'src/statistics/Statistics.module.css'
import { EstimateFigure, Estimates } from 'src/ui/charts/Estimate'
import { fixed, percent } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { TextField } from 'src/ui/widgets/Field'
import { Page } from 'src/ui/widgets/Page'
import { Notice } from 'src/ui/widgets/States'
import { useParams, useSearchParams } from 'wouter'

export default function Planning() {
  const { slug = '' } = useParams<{ slug: string }>()
  return (
    <Page title={t('nav.advice')} intro={t('planning.intro')}>
      <Advice slug={slug} />
      <PowerPlan slug={slug} />
      <Arms slug={slug} />
    </Page>
  )
}

/** A share given as percent; undefined where the text is none. */
export function readShare(text: string): number | undefined {
  const share = Number(text.trim().replace(',', '.')) / 100
  return text.trim() !== '' && share >= 0 && share <= 1 ? share : undefined
}

function Advice({ slug }: { slug: string }) {
  const [search, setSearch] = useSearchParams()
  const typed = search.get('model') ?? ''
  const accuracy = readShare(typed)
  const source = adviceSource(slug, accuracy)
  const report = useQuery(adviceQuery(source))
  const type = (text: string) =>
    setSearch(
      (params) => {
        if (text) params.set('model', text)
        else params.delete('model')
        return params
      },
      { replace: true },
    )
  return (
    <ReportCard
      title={t('advice.title')}
      note={t('advice.note')}
      source={source}
      query={report}
      filters={
        <TextField
          label={t('advice.accuracy')}
          help={t('advice.accuracyHelp')}
          unit="%"
          inputMode="decimal"
          error={typed !== '' && accuracy === undefined ? t('advice.accuracyWrong') : undefined}
          value={typed}
          onChange={(event) => type(event.target.value)}
        />
      }
    >
      {({ advice, words, agreement, self_consistency, ceiling, share_of_ceiling, accuracy: asked }) => (
        <>
          <Notice>
            {advice && <h3>{t(`advice.${advice}`)}</h3>}
            <p>{words}</p>
          </Notice>
          <Estimates>
            <EstimateFigure label={t('advice.agreement')} estimate={agreement} unit="percent" bar />
            <EstimateFigure label={t('records.consistency')} estimate={self_consistency} unit="percent" bar />
          </Estimates>
          <div className={styles.sub}>
            <h3>{t('ceiling.title')}</h3>
            <CeilingFigures ceiling={ceiling} />
            {share_of_ceiling !== null && asked !== null && (
              <p className="tabular">
                {t('ceiling.share', { accuracy: fixed(asked * 100, 1), share: percent(share_of_ceiling) })}
              </p>
            )}
          </div>
        </>
      )}
    </ReportCard>
  )
}
