/** All policies by strength: what people, reward models and judge models make of them, and how far those agree. */
import { useQuery } from '@tanstack/react-query'
import { Swords, Trophy } from 'lucide-react'
import { policyRankingQuery } from 'src/api/evaluationsApi'
import type { JudgeKindEnum, PolicyRanking as OneRanking, PolicyRankings } from 'src/api/schema'
import { AgreementTable } from 'src/training/EvaluationFigures'
import styles from 'src/training/Evaluations.module.css'
import { isSplit, JUDGE_KINDS, placeText, type RankedRow, rankedRows } from 'src/training/policyRanks'
import { rangeOf } from 'src/ui/charts/scale'
import { Whiskers } from 'src/ui/charts/Whiskers'
import { cautionText, DASH, fixed, interval } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { LinkButton } from 'src/ui/widgets/Button'
import type { Column } from 'src/ui/widgets/DataTable'
import { SelectField } from 'src/ui/widgets/Field'
import { Card, Page } from 'src/ui/widgets/Page'
import { Empty, Loaded, Notice, Skeleton } from 'src/ui/widgets/States'
import { Link, useParams, useSearchParams } from 'wouter'

export default function PolicyRanking() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search, setSearch] = useSearchParams()
  const found = useQuery(policyRankingQuery(slug))
  const asked = JUDGE_KINDS.find((kind) => kind === search.get('judge'))
  const choose = (value: string) =>
    setSearch((params) => {
      if (value) params.set('judge', value)
      else params.delete('judge')
      return params
    })
  return (
    <Page
      title={t('nav.strengths')}
      intro={t('strengths.intro')}
      actions={
        <LinkButton href={`/r/${slug}/evaluations`}>
          <Swords size={16} aria-hidden="true" />
          {t('nav.evaluations')}
        </LinkButton>
      }
    >
      <Loaded
        query={found}
        what={t('strengths.failed')}
        skeleton={
          <Card>
            <Skeleton rows={6} />
          </Card>
        }
      >
        {(report) => <Shown slug={slug} report={report} asked={asked} choose={choose} />}
      </Loaded>
    </Page>
  )
}

type ShownProps = {
  slug: string
  report: PolicyRankings
  asked: JudgeKindEnum | undefined
  choose: (value: string) => void
}

function Shown({ slug, report, asked, choose }: ShownProps) {
  const held = JUDGE_KINDS.filter((kind) => report.rankings.some((one) => one.kind === kind && one.contests > 0))
  if (held.length === 0) {
    return (
      <Card>
        <Empty
          icon={Trophy}
          title={t('strengths.none')}
          action={<Link href={`/r/${slug}/evaluations?new=1`}>{t('evaluation.new')}</Link>}
        >
          {t('strengths.noneText')}
        </Empty>
      </Card>
    )
  }
  const kinds = asked ? [asked] : held
  const shown = report.rankings.filter(({ kind }) => kinds.includes(kind))
  const met = report.agreement.filter(({ pairs }) => pairs > 0)
  return (
    <>
      <Card title={t('strengths.title')} note={t('strengths.note')} flush>
        <div className={styles.inset}>
          <div className={styles.filters}>
            <SelectField
              label={t('strengths.judge')}
              value={asked ?? ''}
              onChange={({ target }) => choose(target.value)}
              options={[
                ['', t('strengths.allJudges')],
                ...JUDGE_KINDS.map((kind): [string, string] => [kind, t(`strengths.by.${kind}`)]),
              ]}
            />
          </div>
          {shown.map((ranking) => (
            <RestsOn key={ranking.kind} ranking={ranking} />
          ))}
        </div>
        <Ranked slug={slug} report={report} kinds={kinds} />
      </Card>
      <Card title={t('strengths.agreement')} note={t('agreed.note')} flush>
        {met.length === 0 ? (
          <p className={`${styles.inset} muted`}>{t('agreed.noneKinds')}</p>
        ) : (
          <AgreementTable rows={met} nameOf={kindName} />
        )}
      </Card>
    </>
  )
}

function kindName(id: string): string {
  const kind = JUDGE_KINDS.find((name) => name === id)
  return kind ? t(`strengths.by.${kind}`) : id
}

function RestsOn({ ranking: { kind, contests, prompts, verdicts, policies, warnings } }: { ranking: OneRanking }) {
  const judge = t(`strengths.by.${kind}`)
  const on = t('strengths.prompts', { n: prompts })
  return (
    <>
      <p className="muted">
        {verdicts === null
          ? t('strengths.restsOnPeople', { judge, votes: t('strengths.votes', { n: contests }), prompts: on })
          : t('strengths.restsOn', {
              judge,
              answers: t('strengths.answers', { n: contests }),
              prompts: on,
              verdicts: t('strengths.verdicts', { n: verdicts }),
            })}
      </p>
      {isSplit(policies) && (
        <Notice tone="warn">
          {judge}: {t('strengths.split')}
        </Notice>
      )}
      {warnings
        .filter((code) => code !== 'not_connected')
        .map((code) => (
          <Notice key={code} tone="warn">
            {judge}: {cautionText(code)}
          </Notice>
        ))}
    </>
  )
}

type RankedProps = { slug: string; report: PolicyRankings; kinds: readonly JudgeKindEnum[] }

function Ranked({ slug, report, kinds }: RankedProps) {
  const rows = rankedRows(report, kinds)
  const split = report.rankings.some(({ kind, policies }) => kinds.includes(kind) && isSplit(policies))
  const marks = ({ by }: RankedRow) =>
    kinds.map((kind) => {
      const found = by[kind]
      return { value: found?.strength ?? null, low: found?.low ?? null, high: found?.high ?? null }
    })
  const ends = rows.flatMap(marks).flatMap(({ value, low, high }) => [value, low, high])
  const one = kinds.length === 1 ? kinds[0] : undefined
  if (rows.length === 0) return <p className={`${styles.inset} muted`}>{t('strengths.noneOfKind')}</p>
  return (
    <Whiskers<RankedRow>
      caption={t('strengths.title')}
      rows={rows}
      rowKey={({ id }) => id}
      columns={{
        before: [
          {
            name: 'name',
            header: t('strengths.policy'),
            cell: ({ name, model }) => (
              <strong>{model ? <Link href={`/r/${slug}/policies/${model}`}>{name}</Link> : name}</strong>
            ),
          },
        ],
        after: [
          ...kinds.map((kind) => ofKind(kind, split)),
          ...(one
            ? [
                {
                  name: 'elo',
                  header: t('strengths.elo'),
                  align: 'end' as const,
                  cell: ({ by }: RankedRow) => {
                    const elo = by[one]?.elo ?? null
                    return elo === null ? DASH : fixed(elo, 0)
                  },
                },
              ]
            : []),
        ],
      }}
      marks={marks}
      series={kinds.map((kind) => t(`strengths.by.${kind}`))}
      axis={{ ...rangeOf(ends, [0]), label: t('strengths.axis'), format: (x) => fixed(x, 1), reference: 0 }}
    />
  )
}

/** Rank, strength with its interval, and on how much it rests, by one kind of judge. */
const ofKind = (kind: JudgeKindEnum, split: boolean): Column<RankedRow> => ({
  name: kind,
  header: t(`strengths.by.${kind}`),
  cell: ({ by }) => {
    const found = by[kind]
    if (!found || found.strength === null) return DASH
    const { strength, low, high, contests, component } = found
    return (
      <span className={styles.figure}>
        <span>
          <strong>{t('strengths.rank', { rank: placeText(found) })}</strong> · {fixed(strength, 2)}
        </span>
        <span className={styles.range}>
          {low !== null && high !== null && `${interval(fixed(low, 2), fixed(high, 2))} · `}
          {t('strengths.contests', { n: contests })}
          {split && ` · ${t('strengths.group', { group: component + 1 })}`}
        </span>
      </span>
    )
  },
})
