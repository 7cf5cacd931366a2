/** A project to be: what people judge, how, by which rules, and how many of them judge each comparison. */
import { useMutation, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { fieldErrors } from 'src/api/errors'
import { keys } from 'src/api/queries'
import type { Form } from 'src/api/schema'
import { createProject } from 'src/api/setup'
import styles from 'src/setup/SetUp.module.css'
import { SetUpSteps } from 'src/setup/Steps'
import { Markdown } from 'src/ui/content/Markdown'
import { t } from 'src/ui/i18n/t'
import { Button, LinkButton } from 'src/ui/widgets/Button'
import { ChoiceCard, ChoiceGroup, SelectField, TextArea, TextField } from 'src/ui/widgets/Field'
import { Card, Columns, Page, Row } from 'src/ui/widgets/Page'
import { ErrorPanel } from 'src/ui/widgets/States'
import { useLocation } from 'wouter'

const KINDS: Form['kind'][] = ['choice', 'scale', 'ranking', 'rating']
/** How many completions meet in a task, where the kind leaves it open. */
const SIZES: Partial<Record<Form['kind'], number>> = { ranking: 4, rating: 1 }
const OVERLAPS = [1, 2, 3, 4, 5, 7, 9]
const options = (values: number[]): [string, string][] => values.map((value) => [String(value), String(value)])

export default function NewProject() {
  const client = useQueryClient()
  const [, navigate] = useLocation()
  const [name, setName] = useState('')
  const [kind, setKind] = useState<Form['kind']>('choice')
  const [points, setPoints] = useState('5')
  const [size, setSize] = useState('4')
  const [question, setQuestion] = useState<string | null>(null)
  const [guideline, setGuideline] = useState<string | null>(null)
  const [overlap, setOverlap] = useState('3')
  const asked = question ?? t(kind === 'rating' ? 'newProject.questionRating' : 'newProject.questionUsual')
  const rules = guideline ?? t('newProject.guidelineStart')
  const create = useMutation({
    mutationFn: () =>
      createProject({
        name: name.trim(),
        question: asked.trim(),
        guideline: rules,
        overlap: Number(overlap),
        form: {
          kind,
          ...(kind === 'scale' ? { points: Number(points) } : {}),
          ...(kind === 'ranking' ? { size: Number(size) } : {}),
          ...(kind === 'rating' ? { size: SIZES.rating } : {}),
        },
      }),
    onSuccess: async ({ slug }) => {
      // The new project's pages ask the session what this person may do there.
      await client.invalidateQueries({ queryKey: keys.session })
      navigate(`/r/${slug}/setup?step=prompts`)
    },
  })
  const errors = fieldErrors(create.error)
  return (
    <Page title={t('newProject.title')} intro={t('newProject.intro')} narrow above={<SetUpSteps now="project" />}>
      <form
        noValidate
        className={styles.form}
        onSubmit={(event) => {
          event.preventDefault()
          if (!create.isPending) create.mutate()
        }}
      >
        <Card title={t('newProject.what')}>
          <TextField
            label={t('settings.name')}
            help={t('newProject.nameHelp')}
            error={errors.name ?? errors.slug}
            autoFocus
            value={name}
            onChange={(event) => setName(event.target.value)}
          />
          <ChoiceGroup legend={t('formBuilder.kind')} error={errors['form.kind']}>
            {KINDS.map((one) => (
              <ChoiceCard
                key={one}
                kind="radio"
                name="kind"
                label={t(`formBuilder.kind.${one}`)}
                note={t(`formBuilder.kind.${one}.help`)}
                checked={kind === one}
                onChange={() => setKind(one)}
              />
            ))}
          </ChoiceGroup>
          <Columns width={240}>
            {kind === 'scale' && (
              <SelectField
                label={t('formBuilder.points')}
                error={errors['form.points']}
                value={points}
                options={options([2, 3, 4, 5, 6, 7])}
                onChange={(event) => setPoints(event.target.value)}
              />
            )}
            {kind === 'ranking' && (
              <SelectField
                label={t('formBuilder.size')}
                error={errors['form.size']}
                value={size}
                options={options([3, 4, 5, 6, 7, 8, 9])}
                onChange={(event) => setSize(event.target.value)}
              />
            )}
            <TextField
              label={t('settings.question')}
              help={t('settings.question.help')}
              error={errors.question}
              value={asked}
              onChange={(event) => setQuestion(event.target.value)}
            />
            <SelectField
              label={t('overview.votesWanted')}
              help={t(Number(overlap) === 1 ? 'newProject.overlapOne' : 'newProject.overlapHelp')}
              error={errors.overlap}
              value={overlap}
              options={options(OVERLAPS)}
              onChange={(event) => setOverlap(event.target.value)}
            />
          </Columns>
        </Card>
        <Card title={t('task.guideline')} note={t('newProject.guidelineNote')}>
          <Columns width={320}>
            <TextArea
              label={t('settings.guidelineText')}
              error={errors.guideline}
              rows={12}
              value={rules}
              onChange={(event) => setGuideline(event.target.value)}
            />
            <section aria-label={t('settings.guidelinePreview')} className={styles.preview}>
              <Markdown text={rules} prefix="new-guideline-" />
            </section>
          </Columns>
        </Card>
        {create.isError && <ErrorPanel what={t('newProject.failed')} error={create.error} />}
        <Row>
          <Button look="primary" type="submit" busy={create.isPending} disabled={name.trim() === ''}>
            {create.isPending ? t('newProject.busy') : t('newProject.create')}
          </Button>
          <LinkButton href="/">{t('action.cancel')}</LinkButton>
          <span className="muted small">{t('newProject.later')}</span>
        </Row>
      </form>
    </Page>
  )
}
