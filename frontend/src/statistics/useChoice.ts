import { useSearchParams } from 'wouter'

/** One of these, kept in the address; anything else there is the first of them. */
export function useChoice<Name extends string>(
  name: string,
  offered: readonly Name[],
): [Name, (value: string) => void] {
  const [search, setSearch] = useSearchParams()
  const chosen = offered.find((one) => one === search.get(name)) ?? (offered[0] as Name)
  const choose = (value: string) =>
    setSearch((params) => {
      if (value === offered[0]) params.delete(name)
      else params.set(name, value)
      return params
    })
  return [chosen, choose]
}
