import { useQuery } from '@tanstack/react-query'
import { X } from 'lucide-react'
import { useEffect } from 'react'
import styles from 'src/annotate/Task.module.css'
import { ApiError } from 'src/api/errors'
import { guidelineQuery } from 'src/api/queries'
import { Markdown } from 'src/ui/content/Markdown'
import { t } from 'src/ui/i18n/t'
import { Button } from 'src/ui/widgets/Button'
import { Loaded } from 'src/ui/widgets/States'

/** Beside the task, not over it: voting goes on while it is open. */
export function GuidelineDrawer({ slug, onClose }: { slug: string; onClose: () => void }) {
  const guideline = useQuery(guidelineQuery(slug))
  const missing = guideline.error instanceof ApiError && guideline.error.status === 404
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.key === 'Escape' && document.querySelector('dialog[open]') === null) onClose()
    }
    window.addEventListener('keydown', onKeyDown)
    return () => window.removeEventListener('keydown', onKeyDown)
  }, [onClose])
  return (
    <aside className={styles.drawer} aria-label={t('task.guideline')}>
      <div className={styles.drawerHeader}>
        <h2>
          {t('task.guideline')}
          {guideline.data && <span className="muted"> · {t('task.version', { number: guideline.data.number })}</span>}
        </h2>
        <Button look="quiet" small icon aria-label={t('action.close')} onClick={onClose}>
          <X size={18} aria-hidden="true" />
        </Button>
      </div>
      <div className={styles.drawerBody} tabIndex={0}>
        {missing ? (
          <p className="muted">{t('task.noGuideline')}</p>
        ) : (
          <Loaded query={guideline} what={t('task.guidelineFailed')}>
            {({ text }) => <Markdown text={text} prefix="guideline-" />}
          </Loaded>
        )}
      </div>
    </aside>
  )
}
