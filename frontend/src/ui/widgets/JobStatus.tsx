import { t } from 'src/ui/i18n/t'
import { Badge, type Tone } from 'src/ui/widgets/Bits'

type Status = 'queued' | 'running' | 'succeeded' | 'failed' | 'cancelled'
type Phase = 'starting' | 'stalled' | 'stopping'

const TONES: Record<Status | Phase, Tone> = {
  queued: 'plain',
  running: 'live',
  succeeded: 'ok',
  failed: 'error',
  cancelled: 'plain',
  starting: 'live',
  stalled: 'warn',
  stopping: 'warn',
}

/** The five stored states and the three derived ones, by their words. */
export function JobStatus({ status, phase }: { status: Status; phase?: Phase | null }) {
  const word = status === 'running' && phase ? phase : status
  return <Badge tone={TONES[word]}>{t(`status.${word}`)}</Badge>
}
