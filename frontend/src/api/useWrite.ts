/** A write of a project's page: everything of the project is read anew afterwards. */
import { type UseMutationResult, useMutation, useQueryClient } from '@tanstack/react-query'
import { keys } from 'src/api/queries'

export function useWrite<Input, Output>(
  slug: string,
  write: (input: Input) => Promise<Output>,
  onDone?: (output: Output, input: Input) => void,
): UseMutationResult<Output, unknown, Input> {
  const client = useQueryClient()
  return useMutation({
    mutationFn: write,
    onSuccess: async (output, input) => {
      onDone?.(output, input)
      await client.invalidateQueries({ queryKey: keys.project(slug) })
    },
  })
}
