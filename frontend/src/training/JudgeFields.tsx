/** Fields of one judge behind a server. */

import styles from 'src/training/Evaluations.module.css'
import type { ServedJudge } from 'src/training/judges'
import { t } from 'src/ui/i18n/t'
import { TextArea, TextField } from 'src/ui/widgets/Field'

type Props = {
  judge: ServedJudge
  /** The server's messages by field. */
  errors: Record<string, string>
  onChange: (judge: ServedJudge) => void
}

export function ServedJudgeFields({ judge, errors, onChange }: Props) {
  return (
    <>
      <div className={styles.form}>
        <TextField
          label={t('judge.model')}
          help={t('judge.modelHelp')}
          error={errors.model}
          value={judge.model}
          onChange={({ target }) => onChange({ ...judge, model: target.value })}
        />
        <TextField
          label={t('judge.url')}
          help={t('judge.urlHelp')}
          error={errors.url}
          inputMode="url"
          value={judge.url}
          placeholder="https://host/v1"
          onChange={({ target }) => onChange({ ...judge, url: target.value })}
        />
      </div>
      <details className={styles.more} open={errors.prompt !== undefined || judge.prompt !== '' || undefined}>
        <summary>{t('judge.ownPrompt')}</summary>
        <TextArea
          label={t('judge.prompt')}
          help={t('judge.promptHelp', { prompt: '{prompt}', first: '{first}', second: '{second}' })}
          error={errors.prompt}
          rows={6}
          value={judge.prompt}
          onChange={({ target }) => onChange({ ...judge, prompt: target.value })}
        />
      </details>
    </>
  )
}
