/** The way into a project, a step at a time: the guideline, practice, the qualification, then work. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import styles from 'src/annotate/Start.module.css'
import { beginAttempt, confirmGuideline, guidelineChangeQuery, standingQuery } from 'src/api/annotator'
import { keys } from 'src/api/queries'
import type { GuidelineChange, Standing } from 'src/api/schema'
import { Markdown } from 'src/ui/content/Markdown'
import { exactTime } from 'src/ui/format'
import { t } from 'src/ui/i18n/t'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { Card, Page, Row } from 'src/ui/widgets/Page'
import { ErrorPanel, Loaded, Notice } from 'src/ui/widgets/States'
import { type StepItem, Steps } from 'src/ui/widgets/Steps'
import { useLocation, useParams } from 'wouter'

export default function Start() {
  const { slug = '' } = useParams<{ slug: string }>()
  const standing = useQuery(standingQuery(slug))
  return (
    <Page title={t('start.title')} intro={t('start.intro')} narrow>
      <Loaded query={standing} what={t('start.failed')}>
        {(found) => (
          <>
            <Steps steps={stepsOf(found)} now={CURRENT[found.next]} />
            <Step slug={slug} standing={found} />
          </>
        )}
      </Loaded>
    </Page>
  )
}

const CURRENT: Record<Standing['next'], string> = {
  confirm_guideline: 'guideline',
  practise: 'practice',
  qualify: 'qualification',
  failed: 'qualification',
  ready: 'work',
  paused: '',
}

/** What there is to do, with what is behind the person. */
function stepsOf(standing: Standing): StepItem[] {
  const { guideline_number, confirmed_number, practice_items, practice_done, qualification_items, attempt } = standing
  const steps: StepItem[] = []
  if (guideline_number !== null) {
    steps.push({ name: 'guideline', text: t('start.guideline'), done: confirmed_number === guideline_number })
  }
  if (practice_items > 0) {
    const text = t('start.practiceOf', { done: practice_done, items: practice_items })
    steps.push({ name: 'practice', text, done: practice_done >= practice_items })
  }
  if (qualification_items > 0) {
    steps.push({ name: 'qualification', text: t('start.qualification'), done: attempt?.passed === true })
  }
  return [...steps, { name: 'work', text: t('start.work'), done: false }]
}

function Step({ slug, standing }: { slug: string; standing: Standing }) {
  switch (standing.next) {
    case 'confirm_guideline':
      return <Guideline slug={slug} />
    case 'practise':
      return (
        <Card title={t('start.practice')}>
          <p>{t('start.practiceText', { n: standing.practice_items })}</p>
          <Row>
            <LinkButton look="primary" href={`/p/${slug}/practice`}>
              {standing.practice_done > 0 ? t('home.continue') : t('start.begin')}
            </LinkButton>
          </Row>
        </Card>
      )
    case 'qualify':
    case 'failed':
      return <Qualification slug={slug} standing={standing} />
    case 'paused':
      return (
        <Notice tone="warn">
          {t('done.person_paused.title')}. {standing.pause_reason}
        </Notice>
      )
    case 'ready':
      return (
        <Card title={t('start.ready')}>
          {standing.attempt?.passed && (
            <p>{t('start.passed', { right: standing.attempt.right ?? 0, items: standing.attempt.items })}</p>
          )}
          <Row>
            <LinkButton look="primary" href={`/p/${slug}/task`}>
              {t('me.work')}
            </LinkButton>
          </Row>
        </Card>
      )
  }
}

function Guideline({ slug }: { slug: string }) {
  const client = useQueryClient()
  const change = useQuery(guidelineChangeQuery(slug))
  const confirm = useMutation({
    mutationFn: (number: number) => confirmGuideline(slug, number),
    onSuccess: () => client.invalidateQueries({ queryKey: [...keys.work, slug] }),
  })
  return (
    <Loaded query={change} what={t('task.guidelineFailed')}>
      {(found) => (
        <>
          {found.lines.some(({ change: kind }) => kind !== 'same') && <Difference found={found} />}
          <Card title={t('start.guidelineVersion', { number: found.number })}>
            <Markdown text={found.text} prefix="guideline-" />
            {confirm.isError && <ErrorPanel what={t('error.action')} error={confirm.error} />}
            <Row>
              <Button look="primary" busy={confirm.isPending} onClick={() => confirm.mutate(found.number)}>
                {t('start.confirm')}
              </Button>
            </Row>
          </Card>
        </>
      )}
    </Loaded>
  )
}

function Difference({ found }: { found: GuidelineChange }) {
  return (
    <Card title={t('start.changed', { number: found.confirmed_number ?? 0 })}>
      <div className={styles.diff}>
        {found.lines.map(({ change, text }, index) => {
          const Tag = change === 'added' ? 'ins' : change === 'removed' ? 'del' : 'span'
          return (
            // biome-ignore lint/suspicious/noArrayIndexKey: the lines of a difference never move.
            <Tag key={index} className={styles[change]}>
              {text || '\u00a0'}
            </Tag>
          )
        })}
      </div>
    </Card>
  )
}

function Qualification({ slug, standing }: { slug: string; standing: Standing }) {
  const [, navigate] = useLocation()
  const { attempt, attempts_left, retry_at, qualification_items, pass_mark, answered } = standing
  const begin = useMutation({
    mutationFn: () => beginAttempt(slug),
    onSuccess: () => navigate(`/p/${slug}/qualification`),
  })
  const open = attempt !== null && attempt.ended_at === null
  return (
    <Card title={t('start.qualification')}>
      {attempt?.passed === false && (
        <Notice tone="warn">{t('start.notPassed', { right: attempt.right ?? 0, items: attempt.items })}</Notice>
      )}
      <p>{t('start.qualificationText', { n: qualification_items, share: Math.round(pass_mark * 100) })}</p>
      {attempts_left !== null && <p className="muted">{t('start.attemptsLeft', { n: attempts_left })}</p>}
      {standing.next === 'failed' ? (
        <p>{retry_at ? t('start.retryAt', { when: exactTime(retry_at) }) : t('start.noMore')}</p>
      ) : (
        <Row>
          <Button look="primary" busy={begin.isPending} onClick={() => begin.mutate()}>
            {open ? t('start.goOn', { done: answered, items: attempt.items }) : t('start.begin')}
          </Button>
        </Row>
      )}
      {begin.isError && <ErrorPanel what={t('error.action')} error={begin.error} />}
    </Card>
  )
}
