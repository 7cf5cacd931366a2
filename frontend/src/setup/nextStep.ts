/** What a project wants next, read from its overview: the one thing that lets everything behind it go on. */
import { isOver } from 'src/api/queries'
import type { Overview } from 'src/api/schema'
import { t } from 'src/ui/i18n/t'

export type NextStep = {
  name:
    | 'prompts'
    | 'people'
    | 'sampling'
    | 'completions'
    | 'adjudicate'
    | 'votes'
    | 'freeze'
    | 'train'
    | 'watch'
    | 'round'
  text: string
  /** What the button says, and where it leads within the project's pages; an address from the root begins with `~`. */
  action: string
  href: string
}

type Read = Pick<Overview, 'counts' | 'people' | 'round' | 'snapshot' | 'jobs'>

/** Jobs that people launch; the others come of rounds, promotions and chats. */
const trains = (method: string): boolean => !['sample', 'convert', 'serve', 'score', 'evaluate'].includes(method)

/** There is always something: in the end another round. */
export function nextStep({ counts, people, round, snapshot, jobs }: Read, slug: string): NextStep {
  const { prompts, completions, comparisons, open, disputed, settled, adjudicated, wanted } = counts
  const step = (name: NextStep['name'], text: string, href: string): NextStep => ({
    name,
    text,
    href,
    action: t(`nextStep.${name}.do`),
  })
  const ready = settled + adjudicated
  if (prompts === 0 && comparisons === 0) return step('prompts', t('nextStep.prompts'), '/setup?step=prompts')
  if (round && !isOver(round)) {
    const { number, completions_done: done, completions_wanted: all } = round
    return step('sampling', t('nextStep.sampling', { number, done, all }), '/rounds')
  }
  if (comparisons === 0) {
    return completions > 0
      ? step('completions', t('nextStep.pairs', { n: completions }), '/pairing')
      : step('completions', t('nextStep.completions', { n: prompts }), '/setup?step=completions')
  }
  if (people.length < 2 && open > 0) return step('people', t('nextStep.people'), '/setup?step=people')
  if (disputed > 0) return step('adjudicate', t('nextStep.adjudicate', { n: disputed }), '/adjudicate')
  if (open > 0) return step('votes', t('nextStep.votes', { n: wanted, comparisons: open }), `~/p/${slug}/task`)
  if (ready > (snapshot?.counts.total ?? 0)) {
    const more = ready - (snapshot?.counts.total ?? 0)
    return step(
      'freeze',
      snapshot ? t('nextStep.freezeMore', { n: more }) : t('nextStep.freeze', { n: ready }),
      '/snapshots?freeze=1',
    )
  }
  if (snapshot && snapshot.jobs === 0) {
    return step('train', t('nextStep.train', { number: snapshot.number }), `/jobs/new?snapshot=${snapshot.id}`)
  }
  const running = jobs.find((job) => trains(job.method) && !isOver(job))
  if (running) return step('watch', t('nextStep.watch', { title: running.title }), `/jobs/${running.id}`)
  return step('round', t('nextStep.round'), '/rounds?new=1')
}
