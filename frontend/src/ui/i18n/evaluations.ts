/** Importing this brings the strings of its pages. */
import { enEvaluations } from 'src/ui/i18n/enEvaluations'
import { addMessages } from 'src/ui/i18n/t'

addMessages(enEvaluations)
