/** Results of experiments with the whole loop: which there are, and what became of their claims. */
import { useQuery } from '@tanstack/react-query'
import { Microscope } from 'lucide-react'
import { experimentsQuery } from 'src/api/experimentsApi'
import type { Experiment, ExperimentBroken } from 'src/api/schema'
import styles from 'src/training/Experiments.module.css'
import { Verdicts } from 'src/training/Verdicts'
import { t } from 'src/ui/i18n/t'
import { Badge, CopyBox, Time } from 'src/ui/widgets/Bits'
import { type Column, DataTable } from 'src/ui/widgets/DataTable'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { Link } from 'wouter'

const ALL = 'python -m benchmarks.loop --help'

const columns = (): Column<Experiment>[] => [
  {
    name: 'title',
    header: t('experiments.experiment'),
    wrap: true,
    cell: ({ experiment, setting, title, question }) => (
      <span lang="en" className={styles.what}>
        <Link href={`/experiments/${experiment}/${setting}`}>{title}</Link>
        <span className="muted small">{question}</span>
      </span>
    ),
  },
  {
    name: 'verdict',
    header: t('experiments.verdict'),
    cell: ({ verdicts }) => <Verdicts verdicts={verdicts} />,
  },
  { name: 'setting', header: t('experiments.setting'), cell: ({ setting }) => t(`experiments.setting.${setting}`) },
  {
    name: 'finished',
    header: t('experiments.finished'),
    cell: ({ finished_at, origin }) => (
      <span className={styles.when}>
        <Time at={finished_at} />
        {origin === 'here' && <Badge>{t('experiments.here')}</Badge>}
      </span>
    ),
  },
]

export default function Experiments() {
  const list = useQuery(experimentsQuery())
  return (
    <Page title={t('nav.experiments')} intro={t('experiments.intro')}>
      <Loaded query={list} what={t('experiments.failed')} skeleton={<SkeletonBoxes boxes={2} height={180} />}>
        {({ items, broken }) => (
          <>
            {broken.length > 0 && <Broken files={broken} />}
            {items.length === 0 ? (
              <Card>
                <Empty icon={Microscope} title={t('experiments.none')}>
                  {t('experiments.noneText')}
                </Empty>
                <CopyBox text={ALL} label={t('experiments.howToRun')} />
              </Card>
            ) : (
              <Card flush>
                <DataTable
                  caption={t('nav.experiments')}
                  columns={columns()}
                  rows={items}
                  rowKey={({ experiment, setting }) => `${experiment} ${setting}`}
                />
              </Card>
            )}
          </>
        )}
      </Loaded>
    </Page>
  )
}

function Broken({ files }: { files: ExperimentBroken[] }) {
  return (
    <Notice tone="warn" role="status">
      {t('experiments.broken', { n: files.length })}
      <ul className={styles.broken}>
        {files.map(({ file, origin, reason }) => (
          <li key={`${origin} ${file}`}>
            <code>{file}</code> ({t(`experiments.origin.${origin}`)}): <span lang="en">{reason}</span>
          </li>
        ))}
      </ul>
    </Notice>
  )
}
