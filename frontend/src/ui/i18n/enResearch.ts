/** Strings of the researcher's pages: they come with the first of those, so that annotators do not load them. */
import { enData } from 'src/ui/i18n/enData'
import { enEvaluations } from 'src/ui/i18n/enEvaluations'
import { enExperiments } from 'src/ui/i18n/enExperiments'
import { enJobs } from 'src/ui/i18n/enJobs'
import { enModels } from 'src/ui/i18n/enModels'
import { enPlayground } from 'src/ui/i18n/enPlayground'
import { enProject } from 'src/ui/i18n/enProject'
import { enSnapshots } from 'src/ui/i18n/enSnapshots'
import { enStatistics } from 'src/ui/i18n/enStatistics'

export const enResearch = {
  ...enProject,
  ...enData,
  ...enSnapshots,
  ...enStatistics,
  ...enJobs,
  ...enModels,
  ...enEvaluations,
  ...enExperiments,
  ...enPlayground,
}
