/** The rule of a snapshot in words: how its votes became labels, and how its lines were split. */
import type { Snapshot } from 'src/api/schema'
import { type Config, shown } from 'src/training/config'
import { count, DASH, measured, percent } from 'src/ui/format'
import { hasWords, t } from 'src/ui/i18n/t'

type Fact = [string, string]
type Words = (value: unknown) => string

const CLASSES = ['a', 'tie', 'b'] as const
const PARTS = ['train', 'validation', 'test'] as const

const isRecord = (value: unknown): value is Config =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
const numbers = (value: unknown): number[] =>
  Array.isArray(value) ? value.filter((item) => typeof item === 'number') : []

/** What stands for a value that has a name of its own; what is not known is shown as it is. */
const named =
  (prefix: string): Words =>
  (value) => {
    const key = `${prefix}.${String(value)}`
    return hasWords(key) ? t(key as 'form.yes') : shown(value)
  }
const numeric =
  (words: (value: number) => string): Words =>
  (value) =>
    typeof value === 'number' ? words(value) : shown(value) || DASH
const listed =
  (words: (item: unknown) => string): Words =>
  (value) =>
    Array.isArray(value) && value.length > 0 ? value.map(words).join(', ') : t('rule.none')

/** "dawid_skene/1": a method and its version. */
function aggregator(value: unknown): string {
  const [name = '', version] = String(value).split('/')
  const words = named('aggregator')(name)
  return version ? t('rule.versioned', { name: words, version }) : words
}

const classShares: Words = (value) =>
  numbers(value)
    .map((share, at) => `${CLASSES[at] ? t(`class.${CLASSES[at]}`) : at} ${percent(share)}`)
    .join(', ')

/** Of a prior that is the same for all people: what is right on the diagonal, what is not beside it. */
function prior(value: unknown): string {
  if (!isRecord(value) || !Array.isArray(value.confusion)) return shown(value)
  const [right, wrong] = numbers(value.confusion[0])
  if (right === undefined || wrong === undefined) return shown(value)
  return t('rule.priorCounts', { right, wrong, classes: shown(value.classes) })
}

const partShares: Words = (value) =>
  isRecord(value)
    ? PARTS.filter((part) => part in value)
        .map((part) => `${t(`split.${part}`)} ${numeric(percent)(value[part])}`)
        .join(', ')
    : shown(value)

/** Each key that the server writes; the order is that of the table. */
const policyFacts = (): Record<string, [string, Words]> => ({
  aggregator: [t('freeze.aggregator'), aggregator],
  min_votes: [t('freeze.minVotes'), numeric(count)],
  tie_rule: [t('freeze.tieRule'), named('freeze.tie')],
  dispute_below: [t('rule.disputeBelow'), numeric((share) => (share > 0 ? percent(share) : t('rule.never')))],
  min_confidence: [t('rule.minConfidence'), numeric((share) => (share > 0 ? percent(share) : t('rule.any')))],
  guideline_versions: [t('rule.guidelines'), listed((version) => `v${String(version)}`)],
  excluded_annotators: [t('rule.excluded'), listed(String)],
  margin: [t('rule.margin'), (value) => t(value === true ? 'rule.marginYes' : 'form.no')],
  margin_per_step: [t('rule.marginPerStep'), numeric((nats) => t('rule.nats', { nats: measured(nats) }))],
})
const fitFacts = (): Record<string, [string, Words]> => ({
  fitted_on: [t('rule.fittedOn'), named('split')],
  annotators: [t('rule.fitPeople'), numeric(count)],
  votes: [t('rule.fitVotes'), numeric(count)],
  class_shares: [t('rule.classShares'), classShares],
  prior: [t('rule.prior'), prior],
  converged: [t('rule.converged'), (value) => t(value === true ? 'form.yes' : 'rule.notConverged')],
})
const splitFacts = (): Record<string, [string, Words]> => ({
  rule: [t('rule.split'), (value) => (value === 'prompt-group/blake2b-64' ? t('rule.byGroup') : shown(value))],
  seed: [t('rule.splitSeed'), shown],
  shares: [t('rule.shares'), partShares],
})

/** What stands in an object, in the order of the words; a key without words comes last, as it is. */
function factsOf(values: Config, words: Record<string, [string, Words]>): Fact[] {
  const known = Object.entries(words).filter(([key]) => key in values)
  const others = Object.entries(values).filter(([key]) => !(key in words))
  return [
    ...known.map(([key, [term, say]]): Fact => [term, say(values[key])]),
    ...others.map(([key, value]): Fact => [key, shown(value) || DASH]),
  ]
}

export function ruleFacts({ label_policy, split }: Pick<Snapshot, 'label_policy' | 'split'>): Fact[] {
  const { fit, ...policy } = label_policy
  return [
    ...factsOf(policy, policyFacts()),
    ...(isRecord(fit) ? factsOf(fit, fitFacts()) : []),
    ...factsOf(split, splitFacts()),
  ]
}
