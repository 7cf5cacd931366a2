/** Gold of one's own: new texts with their answer, or a comparison that is there. */
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { giveGold } from 'src/api/quality'
import { projectQuery } from 'src/api/queries'
import type { GoldGiveRequest } from 'src/api/schema'
import { useWrite } from 'src/api/useWrite'
import { optionsOfUse, type Use } from 'src/quality/golds'
import { type Draft, emptyDraft, lettersOf } from 'src/ui/answer/answer'
import { Ranking } from 'src/ui/answer/Ranking'
import { t } from 'src/ui/i18n/t'
import { ChoiceCard, ChoiceGroup, SelectField, TextArea, TextField } from 'src/ui/widgets/Field'
import { FormDialog } from 'src/ui/widgets/FormDialog'

type GiveProps = { slug: string; onClose: () => void; onGiven: () => void }

export function GiveGold({ slug, onClose, onGiven }: GiveProps) {
  const size = useQuery(projectQuery(slug)).data?.form.size ?? 2
  const [fresh, setFresh] = useState(true)
  const [comparison, setComparison] = useState('')
  const [prompt, setPrompt] = useState('')
  const [texts, setTexts] = useState<string[]>([])
  const [choice, setChoice] = useState('a')
  const [ranking, setRanking] = useState<Draft['ranking']>(emptyDraft().ranking)
  const [explanation, setExplanation] = useState('')
  const [use, setUse] = useState<Use>('hidden')
  const letters = lettersOf(size)
  const body = (): GoldGiveRequest => ({
    ...(fresh
      ? { prompt: [{ role: 'user', content: prompt }], completions: letters.map((_, index) => texts[index] ?? '') }
      : { comparison: comparison.trim() }),
    answer: size === 2 ? { choice } : { ranking: ranking.map((group) => group.map((letter) => letter.toLowerCase())) },
    explanation,
    use,
  })
  const give = useWrite(slug, () => giveGold(slug, body()), onGiven)
  return (
    <FormDialog
      title={t('gold.give')}
      width={680}
      submit={t('gold.giveNow')}
      busy={give.isPending}
      error={give.error}
      failed={t('gold.makeFailed')}
      onSubmit={() => give.mutate(undefined)}
      onClose={onClose}
    >
      {(errors) => (
        <>
          <ChoiceGroup legend={t('gold.of')}>
            <ChoiceCard
              kind="radio"
              name="of"
              label={t('gold.ofTexts')}
              checked={fresh}
              onChange={() => setFresh(true)}
            />
            <ChoiceCard
              kind="radio"
              name="of"
              label={t('gold.ofComparison')}
              note={t('gold.ofComparisonNote')}
              checked={!fresh}
              onChange={() => setFresh(false)}
            />
          </ChoiceGroup>
          {fresh ? (
            <>
              <TextArea
                label={t('comparisons.prompt')}
                rows={2}
                error={errors.prompt}
                value={prompt}
                onChange={(event) => setPrompt(event.target.value)}
              />
              {letters.map((letter, index) => (
                <TextArea
                  key={letter}
                  label={t('comparisons.completion', { letter })}
                  rows={3}
                  error={errors.completions}
                  value={texts[index] ?? ''}
                  onChange={(event) =>
                    setTexts(letters.map((_, at) => (at === index ? event.target.value : (texts[at] ?? ''))))
                  }
                />
              ))}
            </>
          ) : (
            <TextField
              label={t('gold.comparisonId')}
              error={errors.comparison}
              value={comparison}
              onChange={(event) => setComparison(event.target.value)}
            />
          )}
          {size === 2 ? (
            <SelectField
              label={t('gold.answer')}
              error={errors.answer ?? errors['answer.choice']}
              value={choice}
              options={[
                ['a', t('comparisons.wins', { letter: 'A' })],
                ['b', t('comparisons.wins', { letter: 'B' })],
                ['tie', t('comparisons.tie')],
              ]}
              onChange={(event) => setChoice(event.target.value)}
            />
          ) : (
            <Ranking letters={letters} ranking={ranking} ties tieNext={false} onRank={setRanking} />
          )}
          <TextArea
            label={t('gold.explanation')}
            help={t('gold.explanationHelp')}
            rows={3}
            error={errors.explanation}
            value={explanation}
            onChange={(event) => setExplanation(event.target.value)}
          />
          <SelectField
            label={t('gold.use')}
            help={t('gold.useHelp')}
            value={use}
            options={optionsOfUse()}
            onChange={(event) => setUse(event.target.value as Use)}
          />
        </>
      )}
    </FormDialog>
  )
}
