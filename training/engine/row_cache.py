"""Keys and values of the rows in work, where rows of like length stand together.

A row is read over its own past and little more: rows are put into groups, longest first, and attention looks at a
group at a time, over the window of its longest row. The past of one head lies in one piece, as products want it. A
finished row's place is taken by the last one of its group and stays free for a row that fits. Knows lengths and
places; nothing of models, and a row is whatever the caller says.

L layers, H key/value heads, E size of a head, n tokens of a prompt, B rows of a step.
"""

from __future__ import annotations

import math
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
    """Where the step's tokens go, and what they see."""

    places: Tensor  # [B·H] in memory, of each head of each row
    positions: Tensor  # [B] in the row's text
    looks: tuple[Look, ...]


class RowCache(Generic[Owner]):
    """`keys` and `values`: one tensor [places, E] a layer. Rows have an order, that of `owners`.

    A group's part of the memory is [capacity, H, room, E].
    """

    def __init__(self, *, layers: int, heads: int, size: int, room: int, like: Tensor, split: bool) -> None:
        """`split`: whether rows may be put into several groups; `room`: the most positions of a row."""
        empty = like.new_zeros(0, size)
        self.keys = [empty] * layers
        self.values = [empty] * layers
        self._heads = heads
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
                        for memory in (*self.keys, *self.values):
                            block = self._block(memory, group)
                            block[place, :, : last.length] = block[len(group.slots), :, : last.length]
                    return
        raise AssertionError("no such row")

    def begin_step(self) -> Step:
        """Every row grows by one token, whose keys and values [B·H, E] the caller writes to `places` of each layer.

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
            window, begin, heads = max(lengths) + 1, len(positions), range(self._heads)
            for place, length in enumerate(lengths):
                start = group.base + place * self._heads * group.room + length
                places += [start + head * group.room for head in heads]
            positions += lengths
            mask = None
            if min(lengths) + 1 < window:
                unseen = torch.arange(window, device=device) > torch.tensor(lengths, device=device)[:, None]
                mask = self.keys[0].new_zeros(unseen.shape).masked_fill_(unseen, -torch.inf)[:, None, None]
            end = len(positions)
            looks.append(Look(begin=begin, end=end, base=group.base, room=group.room, window=window, mask=mask))
            for slot in group.slots:
                slot.length += 1
        return Step(
            places=torch.tensor(places, device=device),
            positions=torch.tensor(positions, device=device),
            looks=tuple(looks),
        )

    def seen(self, memory: Tensor, look: Look) -> Tensor:
        """Keys or values of one layer that a group attends to, a view [rows·H, window, E]."""
        size = memory.shape[1]
        shape = ((look.end - look.begin) * self._heads, look.window, size)
        return memory.as_strided(shape, (look.room * size, size, 1), look.base * size)

    def _block(self, memory: Tensor, group: _Group[Owner]) -> Tensor:
        """A group's part of a memory, a view [capacity, H, room, E]."""
        shape = (group.capacity, self._heads, group.room, memory.shape[1])
        return memory[group.base : group.base + math.prod(shape[:3])].view(shape)

    def _fill_free_slot(self, owner: Owner, prefix: Prefix) -> bool:
        n = prefix.length
        free = [g for g in self._groups if len(g.slots) < g.capacity and n < g.room <= n + 2 * _HEADROOM]
        if not free:
            return False
        group = min(free, key=lambda g: g.room)
        self._write(prefix, group, len(group.slots))
        group.slots.append(_Slot(owner=owner, length=n))
        return True

    def _write(self, prefix: Prefix, group: _Group[Owner], place: int) -> None:
        begin = 0
        for parts in prefix.parts:
            end = begin + parts[0].shape[1]
            for memories, part in zip((self.keys, self.values), parts, strict=True):
                for memory, own in zip(memories, part, strict=True):  # own: [n, H, E]
                    self._block(memory, group)[place, :, begin:end] = own.transpose(0, 1)
            begin = end

    def _regroup(self, entering: Sequence[tuple[Owner, Prefix]]) -> None:
        """New memory for all rows and those that enter, longest first."""
        moving: list[tuple[_Slot[Owner], tuple[_Group[Owner], int] | Prefix]] = [
            (slot, (group, place)) for group in self._groups for place, slot in enumerate(group.slots)
        ]
        moving += [(_Slot(owner=owner, length=prefix.length), prefix) for owner, prefix in entering]
        moving.sort(key=lambda row: -row[0].length)
        self._groups, base = [], 0
        lengths = [slot.length for slot, _ in moving]
        for begin, end in _cuts(lengths) if self._split else [(0, len(moving))]:
            room = min(lengths[begin] + _HEADROOM, self._room)
            slots = [slot for slot, _ in moving[begin:end]]
            self._groups.append(_Group(base=base, room=room, capacity=len(slots), slots=slots))
            base += room * len(slots) * self._heads
        targets = [(group, place) for group in self._groups for place in range(len(group.slots))]
        for memories in (self.keys, self.values):
            for layer, old in enumerate(memories):  # a layer at a time, so that little stands in memory twice
                # Zeros, not empty: a NaN left in memory would pass through a masked position.
                new = old.new_zeros(base, old.shape[1])
                for (slot, source), (group, place) in zip(moving, targets, strict=True):
                    if not isinstance(source, Prefix):
                        former = self._block(old, source[0])[source[1], :, : slot.length]
                        self._block(new, group)[place, :, : slot.length] = former
                memories[layer] = new
        for (_, source), (group, place) in zip(moving, targets, strict=True):
            if isinstance(source, Prefix):
                self._write(source, group, place)


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
