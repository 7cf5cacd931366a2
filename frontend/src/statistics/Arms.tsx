/** What choosing pairs has gained over drawing them, at equal numbers of votes. */
import { useQuery } from '@tanstack/react-query'
import type { ArmsReport } from 'src/api/schema'
import { armsQuery, armsSource } from 'src/api/statistics'
import { Doubts } from 'src/statistics/Doubts'
import { ReportCard } from 'src/statistics/Report'
import styles from 'src/statistics/Statistics.module.css'
import { EstimateFigure, Figure } from 'src/ui/charts/Estimate'
import { count, DASH, fixed } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'

type Arm = ArmsReport['chosen']

const orDash = (value: number | null): string => (value === null ? DASH : fixed(value, 3))

const columns = (): Column<Arm>[] => [
  { name: 'arm', header: t('arms.arm'), cell: ({ arm }) => <strong>{t(`arms.${arm}`)}</strong> },
  { name: 'comparisons', header: t('split.comparisons'), align: 'end', cell: (row) => count(row.comparisons) },
  { name: 'votes', header: t('people.votes'), align: 'end', cell: ({ votes }) => count(votes) },
  { name: 'prompts', header: t('nav.prompts'), align: 'end', cell: ({ prompts }) => count(prompts) },
  { name: 'se', header: t('arms.meanSe'), align: 'end', cell: ({ mean_se }) => orDash(mean_se) },
  { name: 'information', header: t('arms.information'), align: 'end', cell: (row) => orDash(row.information) },
  { name: 'loss', header: t('heldOut.logLoss'), cell: ({ log_loss }) => <Figure of={log_loss} unit="coefficient" /> },
]

export function Arms({ slug }: { slug: string }) {
  const source = armsSource(slug)
  const report = useQuery(armsQuery(source))
  return (
    <ReportCard title={t('arms.title')} note={t('arms.note')} source={source} query={report} flush>
      {({ chosen, control, gain, reason, votes }) =>
        chosen.comparisons + control.comparisons === 0 ? (
          <p className={styles.inset}>{t('arms.none')}</p>
        ) : (
          <>
            <div className={styles.inset}>
              <Doubts of={[{ reason }]} />
              <EstimateFigure
                label={t('arms.gain')}
                estimate={gain}
                unit="coefficient"
                note={t('arms.restsOn', { votes, n: gain.n })}
              />
            </div>
            <DataTable
              caption={t('arms.title')}
              columns={columns()}
              rows={[chosen, control]}
              rowKey={({ arm }) => arm}
            />
          </>
        )
      }
    </ReportCard>
  )
}
