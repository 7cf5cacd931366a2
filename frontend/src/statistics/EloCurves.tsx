/** Elo over the votes as they came: to look at, never to decide by. */
import type { RankingReport } from 'src/api/schema'
import styles from 'src/statistics/Statistics.module.css'
import { useChoice } from 'src/statistics/useChoice'
import { BandChart } from 'src/ui/charts/BandChart'
import { fixed } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { SelectField } from 'src/ui/widgets/Field'

/** As many lines as colours and dashes tell apart. */
const LINES = 5

export function EloCurves({ report: { elo, systems } }: { report: RankingReport }) {
  const order = new Map(systems.map(({ name }, place) => [name, place]))
  const best = [...elo].sort((a, b) => (order.get(a.system) ?? 0) - (order.get(b.system) ?? 0))
  const others = best.slice(LINES)
  const [beside, setBeside] = useChoice('beside', ['', ...others.map(({ system }) => system)])
  const chosen = others.find(({ system }) => system === beside)
  const shown = chosen ? [...best.slice(0, LINES - 1), chosen] : best.slice(0, LINES)
  return (
    <>
      {others.length > 0 && (
        <div className={styles.filters}>
          <SelectField
            label={t('elo.beside')}
            value={beside}
            onChange={(event) => setBeside(event.target.value)}
            options={[
              ['', t('elo.best', { n: LINES })],
              ...others.map(({ system }): [string, string] => [system, system]),
            ]}
          />
        </div>
      )}
      <BandChart
        title={t('elo.title')}
        format={(rating) => fixed(rating, 0)}
        over={{ label: t('people.votes'), format: (votes) => t('home.votes', { n: votes }) }}
        series={shown.map(({ system, points }) => ({
          name: system,
          label: system,
          points: points.map(({ votes, rating }) => ({ at: votes, value: rating })),
        }))}
      />
    </>
  )
}
