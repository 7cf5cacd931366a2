import { useSearchParams } from 'wouter'

/** What the address says after its path, and a way to change it in place; an empty value takes its name away. */
export function useAddress(): [URLSearchParams, (changes: Record<string, string>) => void] {
  const [search, setSearch] = useSearchParams()
  const change = (changes: Record<string, string>) =>
    setSearch(
      (params) => {
        for (const [name, value] of Object.entries(changes)) {
          if (value) params.set(name, value)
          else params.delete(name)
        }
        return params
      },
      { replace: true },
    )
  return [search, change]
}
