/** What a new project still wants, a step at a time: prompts, people, and completions for them to compare. */
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { useMembership } from 'src/api/membership'
import { overviewQuery, projectQuery } from 'src/api/queries'
import type { ImportBatch, Overview } from 'src/api/schema'
import { AddPrompts, importedText } from 'src/setup/AddPrompts'
import { InviteLinks } from 'src/setup/InviteLinks'
import styles from 'src/setup/SetUp.module.css'
import { SetUpSteps, STEPS, type Step } from 'src/setup/Steps'
import { t } from 'src/ui/i18n/t'
import { LinkButton } from 'src/ui/widgets/Button'
import { Card, Page, Row } from 'src/ui/widgets/Page'
import { Loaded, Notice, SkeletonBoxes } from 'src/ui/widgets/States'
import { useParams, useSearchParams } from 'wouter'

export default function SetUp() {
  const { slug = '' } = useParams<{ slug: string }>()
  const [search] = useSearchParams()
  const { name, canManage } = useMembership(slug)
  const overview = useQuery(overviewQuery(slug))
  const asked = STEPS.find((step) => step === search.get('step') && step !== 'project')
  const done = overview.data ? doneSteps(overview.data) : []
  const now = asked ?? STEPS.find((step) => !done.includes(step)) ?? 'completions'
  return (
    <Page
      title={t('setUp.title', { name })}
      heading={t(`setUp.heading.${now === 'project' ? 'prompts' : now}`)}
      intro={t(`setUp.intro.${now === 'project' ? 'prompts' : now}`)}
      narrow
      above={
        <SetUpSteps
          now={now}
          done={done}
          hrefOf={(step) => (step === 'project' ? `/r/${slug}/settings` : `/r/${slug}/setup?step=${step}`)}
        />
      }
    >
      {canManage ? (
        <Loaded query={overview} what={t('overview.failed')} skeleton={<SkeletonBoxes boxes={1} height={260} />}>
          {(data) => (
            <>
              {now === 'prompts' && <PromptsStep slug={slug} data={data} />}
              {now === 'people' && <PeopleStep slug={slug} />}
              {now === 'completions' && <CompletionsStep slug={slug} data={data} />}
            </>
          )}
        </Loaded>
      ) : (
        <Notice tone="warn">{t('setUp.notYours')}</Notice>
      )}
    </Page>
  )
}

function doneSteps({ counts, people, round }: Overview): Step[] {
  return [
    'project',
    ...(counts.prompts > 0 ? (['prompts'] as const) : []),
    ...(people.length > 1 ? (['people'] as const) : []),
    ...(counts.comparisons > 0 || round ? (['completions'] as const) : []),
  ]
}

function PromptsStep({ slug, data }: { slug: string; data: Overview }) {
  const overlap = useQuery(projectQuery(slug)).data?.overlap
  const [batch, setBatch] = useState<ImportBatch | null>(null)
  const has = data.counts.prompts > 0 || batch !== null
  return (
    <>
      {batch && (
        <Notice
          tone="ok"
          role="status"
          action={
            <LinkButton small href={`/r/${slug}/data`}>
              {t('setUp.seePrompts')}
            </LinkButton>
          }
        >
          {importedText(batch)}
        </Notice>
      )}
      <Card title={has ? t('addPrompts.more') : undefined}>
        <AddPrompts key={batch?.id ?? 'first'} slug={slug} overlap={overlap} onDone={setBatch} />
      </Card>
      <Row>
        <LinkButton look={has ? 'primary' : 'plain'} href={`/r/${slug}/setup?step=people`}>
          {has ? t('setUp.next.people') : t('setUp.skip')}
        </LinkButton>
      </Row>
    </>
  )
}

function PeopleStep({ slug }: { slug: string }) {
  return (
    <>
      <InviteLinks slug={slug} />
      <Row>
        <LinkButton look="primary" href={`/r/${slug}/setup?step=completions`}>
          {t('setUp.next.completions')}
        </LinkButton>
        <span className="muted small">{t('setUp.annotateToo')}</span>
      </Row>
    </>
  )
}

function CompletionsStep({ slug, data }: { slug: string; data: Overview }) {
  const { prompts, completions, comparisons } = data.counts
  const ways = [
    ['sample', `/r/${slug}/rounds?new=1`, prompts > 0],
    ['import', `/r/${slug}/imports`, true],
    ['pair', `/r/${slug}/pairing`, completions > 0],
  ] as const
  return (
    <>
      {prompts === 0 && <Notice tone="warn">{t('setUp.promptsFirst')}</Notice>}
      {comparisons > 0 && (
        <Notice tone="ok" role="status">
          {t('setUp.ready', { n: comparisons })}
        </Notice>
      )}
      <ul className={styles.choices}>
        {ways
          .filter(([, , shown]) => shown)
          .map(([way, href], index) => (
            <li key={way}>
              <Card title={t(`setUp.way.${way}`)}>
                <p className="muted">{t(`setUp.way.${way}.text`)}</p>
                <Row>
                  <LinkButton look={index === 0 && comparisons === 0 ? 'primary' : 'plain'} href={href}>
                    {t(`setUp.way.${way}.do`)}
                  </LinkButton>
                </Row>
              </Card>
            </li>
          ))}
      </ul>
      <Row>
        <LinkButton look={comparisons > 0 ? 'primary' : 'plain'} href={`/r/${slug}`}>
          {t('setUp.toOverview')}
        </LinkButton>
      </Row>
    </>
  )
}
