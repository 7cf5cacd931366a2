/** An order from best to worst: letters place, buttons or a handle move, neighbours can be made equal. */
import { ChevronDown, ChevronUp, Equal, GripVertical } from 'lucide-react'
import { type PointerEvent, useState } from 'react'
import styles from 'src/ui/answer/Answer.module.css'
import { join, move, place, putBefore, takeBack } from 'src/ui/answer/answer'
import { t } from 'src/ui/i18n/t'
import { KeyCap } from 'src/ui/keys/KeySheet'
import { Button } from 'src/ui/widgets/Button'

type RankingProps = {
  letters: string[]
  ranking: string[][]
  ties: boolean
  /** The next letter will share the last place. */
  tieNext: boolean
  onRank: (ranking: string[][], tieNext: boolean) => void
}

export function Ranking({ letters, ranking, ties, tieNext, onRank }: RankingProps) {
  const placed = ranking.flat()
  const open = letters.filter((letter) => !placed.includes(letter))
  const [over, setOver] = useState<number | null>(null)
  /** By the handle alone: a finger that scrolls the page must not move an answer. Keys and buttons do the same. */
  const handle = (letter: string) => ({
    onPointerDown: (event: PointerEvent<HTMLElement>) => {
      event.preventDefault()
      event.currentTarget.setPointerCapture(event.pointerId)
      setOver(gapAt(event))
    },
    onPointerMove: (event: PointerEvent<HTMLElement>) => over !== null && setOver(gapAt(event) ?? over),
    onPointerUp: (event: PointerEvent<HTMLElement>) => {
      const gap = gapAt(event)
      setOver(null)
      if (over !== null && gap !== null) onRank(putBefore(ranking, letter, gap), false)
    },
    onPointerCancel: () => setOver(null),
  })
  return (
    // biome-ignore lint/a11y/useSemanticElements: a region of buttons, not a form's fieldset.
    <div className={styles.ranking} role="group" aria-label={t('rank.label')} data-field="ranking">
      <span className={styles.end}>{t('rank.best')}</span>
      <ol className={styles.track}>
        {ranking.map((group, index) => (
          <li
            key={group.join('')}
            className={styles.place}
            data-place={index}
            data-gap={
              over === index ? 'before' : over === index + 1 && index === ranking.length - 1 ? 'after' : undefined
            }
          >
            <span className={styles.number}>{index + 1}</span>
            {group.map((letter, at) => (
              <span key={letter} className={styles.placed} data-letter={letter}>
                {at > 0 && <Equal size={14} aria-label={t('rank.equal')} />}
                <span className={styles.grip} aria-hidden="true" data-grip={letter} {...handle(letter)}>
                  <GripVertical size={16} />
                </span>
                <span className={styles.chip}>{letter}</span>
                <Button
                  look="quiet"
                  small
                  icon
                  aria-label={t('rank.up', { letter })}
                  title={t('rank.up', { letter })}
                  disabled={index === 0 && group.length === 1}
                  onClick={() => onRank(move(ranking, letter, -1), false)}
                >
                  <ChevronUp size={16} aria-hidden="true" />
                </Button>
                <Button
                  look="quiet"
                  small
                  icon
                  aria-label={t('rank.down', { letter })}
                  title={t('rank.down', { letter })}
                  disabled={index === ranking.length - 1 && group.length === 1}
                  onClick={() => onRank(move(ranking, letter, 1), false)}
                >
                  <ChevronDown size={16} aria-hidden="true" />
                </Button>
              </span>
            ))}
            {ties && index < ranking.length - 1 && (
              <Button
                look="quiet"
                small
                icon
                aria-label={t('rank.join', { one: index + 1, other: index + 2 })}
                title={t('rank.join', { one: index + 1, other: index + 2 })}
                onClick={() => onRank(join(ranking, index), false)}
              >
                <Equal size={16} aria-hidden="true" />
              </Button>
            )}
          </li>
        ))}
        {open.length > 0 && (
          <li className={styles.place}>
            <span className={styles.number}>{tieNext ? '=' : ranking.length + 1}</span>
            {open.map((letter) => (
              <Button
                key={letter}
                small
                aria-label={t('rank.place', { letter })}
                onClick={() => onRank(place(ranking, letter, tieNext), false)}
              >
                <KeyCap name={letter.toLowerCase()} isLabel />
              </Button>
            ))}
          </li>
        )}
      </ol>
      <span className={styles.end}>{t('rank.worst')}</span>
      <span className={styles.rankTools}>
        {ties && (
          <Button small aria-pressed={tieNext} onClick={() => onRank(...tie(ranking, letters.length, tieNext))}>
            <KeyCap name="=" />
            {t('rank.tie')}
          </Button>
        )}
        <Button small disabled={placed.length === 0} onClick={() => onRank(takeBack(ranking), false)}>
          <KeyCap name="backspace" />
          {t('rank.takeBack')}
        </Button>
        <span className="muted small">{t('rank.count', { placed: placed.length, total: letters.length })}</span>
      </span>
    </div>
  )
}

/** The gap between places under the pointer: before or after the one that it is on, by its nearer half. */
function gapAt({ clientX, clientY }: PointerEvent): number | null {
  const item = document.elementFromPoint(clientX, clientY)?.closest<HTMLElement>('[data-place]')
  if (!item) return null
  const { left, width } = item.getBoundingClientRect()
  const isStart = getComputedStyle(item).direction === 'rtl' ? clientX > left + width / 2 : clientX < left + width / 2
  return Number(item.dataset.place) + (isStart ? 0 : 1)
}

/** `=` joins the next letter to the last place; once all have a place, the last two. */
export function tie(ranking: string[][], size: number, tieNext: boolean): [string[][], boolean] {
  if (ranking.flat().length < size) return [ranking, ranking.length > 0 && !tieNext]
  return [join(ranking, ranking.length - 2), false]
}
