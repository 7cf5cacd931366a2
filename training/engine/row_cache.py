"""Keys and values of the rows in work, where rows of like length stand together.

A row is read over its own past and little more: rows are put into groups, longest first, and attention looks at a
group at a time, over the window of its longest row. A finished row's place is taken by the last one of its group and
stays free for a row that fits. Knows lengths and places; nothing of models, and a row is whatever the caller says.

L layers, H key/value heads, E size of a head, n tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Owner = TypeVar("Owner")

_HEADROOM = 64  # positions a row may grow before the groups are made anew
_GROUP_COST = 192  # positions of one row that cost as much time as one more group (a few calls a layer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """A prompt that has been read: keys and values of its n tokens, and the logits of the token after them.

    `parts` follow each other; the first may be shared with other prompts, the memory behind it always is.
    """

    parts: tuple[tuple[Tensor, Tensor], ...]  # keys and values, [L, n_part, H, E] each
    logits: Tensor  # [V]

    @property
    def length(self) -> int:
        return sum(keys.shape[1] for keys, _ in self.parts)


@dataclass(kw_only=True, slots=True)
class _Slot(Generic[Owner]):
    owner: Owner
    length: int


@dataclass(kw_only=True, slots=True)
class _Group(Generic[Owner]):
    """`slots` in use out of `capacity`, each with `room` positions, from position `base` of the memory on."""

    base: int
    room: int
    capacity: int
    slots: list[_Slot[Owner]]

    @property
    def window(self) -> int:
        return max(slot.length for slot in self.slots)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What rows `begin` to `end` of a step attend to."""

    begin: int
    end: int
    base: int
    room: int
    window: int
    mask: Tensor | None  # [rows, 1, 1, window] additive; None where every row's past fills the window


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Where the step's tokens go: place in memory and position in the text of each row, [B]; and what they see."""

    places: Tensor
    positions: Tensor
    looks: tuple[Look, ...]


class RowCache(Generic[Owner]):
    """`keys` and `values`: one tensor [places, H, E] a layer. Rows have an order, that of `owners`."""

    def __init__(self, *, layers: int, heads: int, size: int, room: int, like: Tensor, split: bool) -> None:
        """`split`: whether rows may be put into several groups; `room`: the most positions of a row."""
        empty = like.new_zeros(0, heads, size)
        self.keys = [empty] * layers
        self.values = [empty] * layers
        self._room = room
        self._groups: list[_Group[Owner]] = []
        self._split = split

    @property
    def owners(self) -> list[Owner]:
        return [slot.owner for group in self._groups for slot in group.slots]

    def add(self, entering: Sequence[tuple[Owner, Prefix]]) -> None:
        """Begin rows with prompts that have been read; all rows may get new places in the order."""
        left = [(owner, prefix) for owner, prefix in entering if not self._fill_free_slot(owner, prefix)]
        if left:
            self._regroup(left)

    def drop(self, owner: Owner) -> None:
        """End a row; the last one of its group takes its place."""
        for group in self._groups:
            for place, slot in enumerate(group.slots):
                if slot.owner is owner:
                    last = group.slots.pop()
                    if last is not slot:
                        group.slots[place] = last
                        source, target = group.base + len(group.slots) * group.room, group.base + place * group.room
                        for memory in (*self.keys, *self.values):
                            memory[target : target + last.length] = memory[source : source + last.length]
                    return
        raise AssertionError("no such row")

    def begin_step(self) -> Step:
        """Every row grows by one token, whose keys and values the caller writes to `places` of each layer.

        Where a row has no room for it, the groups are made anew, so the rows may change their order here.
        """
        if any(group.slots and group.window >= group.room for group in self._groups):
            self._regroup([])
        places: list[int] = []
        positions: list[int] = []
        looks: list[Look] = []
        device = self.keys[0].device
        for group in self._groups:
            if not group.slots:
                continue
            lengths = [slot.length for slot in group.slots]
            window, begin = max(lengths) + 1, len(places)
            places += [group.base + place * group.room + length for place, length in enumerate(lengths)]
            positions += lengths
            mask = None
            if min(lengths) + 1 < window:
                unseen = torch.arange(window, device=device) > torch.tensor(lengths, device=device)[:, None]
                mask = self.keys[0].new_zeros(unseen.shape).masked_fill_(unseen, -torch.inf)[:, None, None]
            end = len(places)
            looks.append(Look(begin=begin, end=end, base=group.base, room=group.room, window=window, mask=mask))
            for slot in group.slots:
                slot.length += 1
        return Step(
            places=torch.tensor(places, device=device),
            positions=torch.tensor(positions, device=device),
            looks=tuple(looks),
        )

    def seen(self, memory: Tensor, look: Look) -> Tensor:
        """Keys or values of one layer that a group attends to, a view [rows, H, window, E]."""
        _, heads, size = memory.shape
        shape = (look.end - look.begin, heads, look.window, size)
        return memory.as_strided(shape, (look.room * heads * size, size, heads * size, 1), look.base * heads * size)

    def _fill_free_slot(self, owner: Owner, prefix: Prefix) -> bool:
        n = prefix.length
        free = [g for g in self._groups if len(g.slots) < g.capacity and n < g.room <= n + 2 * _HEADROOM]
        if not free:
            return False
        group = min(free, key=lambda g: g.room)
        self._write(prefix, group.base + len(group.slots) * group.room)
        group.slots.append(_Slot(owner=owner, length=n))
        return True

    def _write(self, prefix: Prefix, place: int) -> None:
        for keys, values in prefix.parts:
            n = keys.shape[1]
            for layer, (own_keys, own_values) in enumerate(zip(self.keys, self.values, strict=True)):
                own_keys[place : place + n] = keys[layer]
                own_values[place : place + n] = values[layer]
            place += n

    def _regroup(self, entering: Sequence[tuple[Owner, Prefix]]) -> None:
        """New memory for all rows and those that enter, longest first."""
        moving: list[tuple[_Slot[Owner], int | Prefix]] = [
            (slot, group.base + place * group.room) for group in self._groups for place, slot in enumerate(group.slots)
        ]
        moving += [(_Slot(owner=owner, length=prefix.length), prefix) for owner, prefix in entering]
        moving.sort(key=lambda row: -row[0].length)
        self._groups, base = [], 0
        lengths = [slot.length for slot, _ in moving]
        for begin, end in _cuts(lengths) if self._split else [(0, len(moving))]:
            room = min(lengths[begin] + _HEADROOM, self._room)
            slots = [slot for slot, _ in moving[begin:end]]
            self._groups.append(_Group(base=base, room=room, capacity=len(slots), slots=slots))
            base += room * len(slots)
        targets = [g.base + place * g.room for g in self._groups for place in range(len(g.slots))]
        for memories in (self.keys, self.values):
            for layer, old in enumerate(memories):  # a layer at a time, so that little stands in memory twice
                # Zeros, not empty: a NaN left in memory would pass through a masked position.
                new = old.new_zeros(base, *old.shape[1:])
                for (slot, source), target in zip(moving, targets, strict=True):
                    if isinstance(source, int):
                        new[target : target + slot.length] = old[source : source + slot.length]
                memories[layer] = new
        for (_, source), target in zip(moving, targets, strict=True):
            if isinstance(source, Prefix):
                self._write(source, target)


def _cuts(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Lengths, longest first, cut where Σ rows × longest + groups × _GROUP_COST is least (dynamic programming)."""
    best, begins = [0], [0]
    for end in range(1, len(lengths) + 1):
        costs = [(best[begin] + (end - begin) * lengths[begin] + _GROUP_COST, begin) for begin in range(end)]
        cost, begin = min(costs)
        best.append(cost)
        begins.append(begin)
    found, end = [], len(lengths)
    while end:
        found.append((begins[end], end))
        end = begins[end]
    return reversed(found)
