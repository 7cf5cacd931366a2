/** Why a task is skipped or flagged. Skipping takes one key; neither costs the person anything. */
import { useState } from 'react'
import styles from 'src/annotate/Task.module.css'
import type { FlagKind, SkipReason } from 'src/api/queries'
import { type Key, t } from 'src/ui/i18n/t'
import { KeyCap } from 'src/ui/keys/KeySheet'
import { useKeys } from 'src/ui/keys/useKeys'
import { Button } from 'src/ui/widgets/Button'
import { Dialog } from 'src/ui/widgets/Dialog'
import { ChoiceCard, ChoiceGroup, TextArea } from 'src/ui/widgets/Field'

const SKIP_REASONS: [SkipReason, Key][] = [
  ['cannot_judge', 'skip.cannot_judge'],
  ['need_expertise', 'skip.need_expertise'],
  ['too_long', 'skip.too_long'],
  ['broken', 'skip.broken'],
  ['rather_not', 'skip.rather_not'],
]

const FLAG_KINDS: [FlagKind, Key][] = [
  ['personal_data', 'flag.personal_data'],
  ['harmful', 'flag.harmful'],
  ['wrong_language', 'flag.wrong_language'],
  ['broken', 'flag.broken'],
  ['other', 'flag.other'],
]

export function SkipDialog({ onSkip, onClose }: { onSkip: (reason: SkipReason) => void; onClose: () => void }) {
  const by = (index: number) => () => {
    const reason = SKIP_REASONS[index]
    if (reason) onSkip(reason[0])
  }
  useKeys(
    ['reason'],
    { reason1: by(0), reason2: by(1), reason3: by(2), reason4: by(3), reason5: by(4) },
    { layer: 'modal' },
  )
  return (
    <Dialog title={t('skip.title')} onClose={onClose} width={420}>
      <div className={styles.reasons}>
        {SKIP_REASONS.map(([reason, label], index) => (
          <button key={reason} type="button" className={styles.reason} onClick={by(index)}>
            <KeyCap name={String(index + 1)} />
            {t(label)}
          </button>
        ))}
      </div>
      <p className="muted small">{t('skip.note')}</p>
    </Dialog>
  )
}

export function FlagDialog({
  onFlag,
  onClose,
}: {
  onFlag: (kind: FlagKind, note: string) => void
  onClose: () => void
}) {
  const [kind, setKind] = useState<FlagKind | null>(null)
  const [note, setNote] = useState('')
  const [missing, setMissing] = useState(false)
  return (
    <Dialog
      title={t('flag.title')}
      onClose={onClose}
      width={460}
      onSubmit={() => (kind ? onFlag(kind, note.trim()) : setMissing(true))}
      footer={
        <>
          <Button onClick={onClose}>{t('action.cancel')}</Button>
          <Button look="primary" type="submit">
            {t('flag.send')}
          </Button>
        </>
      }
    >
      <ChoiceGroup legend={t('flag.question')} error={missing && !kind ? t('flag.missing') : undefined}>
        {FLAG_KINDS.map(([value, label]) => (
          <ChoiceCard
            key={value}
            kind="radio"
            name="kind"
            value={value}
            checked={kind === value}
            onChange={() => setKind(value)}
            label={t(label)}
          />
        ))}
      </ChoiceGroup>
      <TextArea label={t('flag.note')} value={note} onChange={(event) => setNote(event.target.value)} />
      <p className="muted small">{t('flag.consequence')}</p>
    </Dialog>
  )
}
