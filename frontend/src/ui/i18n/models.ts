/** Importing this brings the strings of its pages. */
import { enModels } from 'src/ui/i18n/enModels'
import { addMessages } from 'src/ui/i18n/t'

addMessages(enModels)
