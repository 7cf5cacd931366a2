/** Strings of the researcher's pages: they come with the first of those, so that annotators do not load them. */
import { enEvaluations } from 'src/ui/i18n/enEvaluations'
import { enJobs } from 'src/ui/i18n/enJobs'
import { enModels } from 'src/ui/i18n/enModels'
import { enPlayground } from 'src/ui/i18n/enPlayground'
import { enProject } from 'src/ui/i18n/enProject'
import { enStatistics } from 'src/ui/i18n/enStatistics'

export const enResearch = {
  ...enProject,
  ...enStatistics,
  ...enJobs,
  ...enModels,
  ...enEvaluations,
  ...enPlayground,
}
