"""Prompt groups and the side of the split that each group keeps for ever.

A group is a connected component over equal prompts (normalised), near-duplicate prompts, equal conversation roots and
equal completions of at least 40 characters. Its side is a keyed hash of its smallest member, so later data keep theirs.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

SHINGLE = 5
NEAR = 0.5
LONG_COMPLETION = 40
PARTS = ("train", "validation", "test")


def normalise(text: str) -> str:
    """NFKC, case-folded, white space collapsed."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def member_key(text: str) -> str:
    """The key of a prompt: 128 bits of sha256 over its normal form."""
    return hashlib.sha256(normalise(text).encode()).hexdigest()[:32]


def prompt_groups(prompts: Sequence[Sequence[Mapping[str, str]]], completions: Sequence[Sequence[str]]) -> list[str]:
    """The group of each item: the smallest member key of its component.

    Args:
        prompts: message lists; completions: the texts that belong to each.
    """
    whole = [member_key("\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)) for prompt in prompts]
    parent = list(range(len(prompts)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(members: Iterable[int]) -> None:
        first, *others = members
        for other in others:
            parent[find(other)] = find(first)

    buckets: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, (prompt, texts) in enumerate(zip(prompts, completions, strict=True)):
        buckets["prompt", whole[i]].append(i)
        root = next((turn["content"] for turn in prompt if turn["role"] == "user"), "")
        buckets["root", member_key(root)].append(i)
        for text in texts:
            if len(text.strip()) >= LONG_COMPLETION:
                buckets["completion", member_key(text)].append(i)
    for members in buckets.values():
        join(members)
    roots = {key: members[0] for (kind, key), members in buckets.items() if kind == "prompt"}
    openings = {key: normalise(" ".join(turn["content"] for turn in prompts[i])) for key, i in roots.items()}
    for one, other in near_duplicates(openings):
        join((roots[one], roots[other]))
    smallest: dict[int, str] = {}
    for i, key in enumerate(whole):
        root_index = find(i)
        smallest[root_index] = min(key, smallest.get(root_index, key))
    return [smallest[find(i)] for i in range(len(prompts))]


def near_duplicates(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Pairs of keys whose texts share at least half of their five-word shingles (Jaccard)."""
    shingles = {key: _shingles(text) for key, text in texts.items()}
    shared: dict[tuple[str, str], int] = defaultdict(int)
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key in sorted(shingles):
        for shingle in shingles[key]:
            for other in holders[shingle]:
                shared[other, key] += 1
            holders[shingle].append(key)
    return [
        (one, other)
        for (one, other), common in shared.items()
        if common / (len(shingles[one]) + len(shingles[other]) - common) >= NEAR
    ]


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))} if words else set()


def part_of(group: str, *, shares: Mapping[str, float], seed: int) -> str:
    """`train`, `validation` or `test` for a group, by 64 bits of keyed blake2b: the same for ever."""
    digest = hashlib.blake2b(group.encode(), digest_size=8, key=str(seed).encode()).digest()
    point = int.from_bytes(digest, "big") / 2**64
    edge = 0.0
    for part in PARTS:
        edge += shares.get(part, 0.0)
        if point < edge:
            return part
    return PARTS[0]


def leak_rate(members: Sequence[Collection[str]], parts: Sequence[str]) -> float:
    """Share of the items outside `train` that have a member, such as a prompt or a completion, in `train` as well.

    Args:
        members: keys of what each item consists of; parts: the part that each is in. 0 where all are in `train`.
    """
    seen = {key for keys, part in zip(members, parts, strict=True) if part == "train" for key in keys}
    held_out = [keys for keys, part in zip(members, parts, strict=True) if part != "train"]
    return sum(not seen.isdisjoint(keys) for keys in held_out) / max(1, len(held_out))
