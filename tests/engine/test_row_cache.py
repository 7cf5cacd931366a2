"""Rows and their places: every row finds its own past again, whoever leaves, enters or grows beside it."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
from torch import Tensor

from training.engine.row_cache import Prefix, RowCache, _cuts


def _past(row: int, position: int) -> float:
    """What row `row` wrote at `position`."""
    return row * 1000.0 + position


def _prefix(row: int, length: int, *, shared: int = 0) -> Prefix:
    values = torch.tensor([_past(row, position) for position in range(length)])
    memory = values[None, :, None, None].expand(2, -1, 3, 4)  # two layers, three heads of four
    cuts = (shared, length) if shared else (length,)
    begins = (0, *cuts[:-1])
    parts = tuple((memory[:, a:b], -memory[:, a:b]) for a, b in zip(begins, cuts, strict=True))
    return Prefix(parts=parts, logits=torch.zeros(1))


def _seen(cache: RowCache[int], layer: int, memory: list[Tensor]) -> list[list[float]]:
    step = cache.begin_step()
    owners = cache.owners
    for written in (cache.keys, cache.values):
        sign = 1 if written is cache.keys else -1
        new = torch.tensor([sign * _past(row, int(at)) for row, at in zip(owners, step.positions, strict=True)])
        for own in written:
            own.index_copy_(0, step.places, new[:, None, None].expand(-1, 3, 4).reshape(-1, 4))
    found = []
    for look in step.looks:
        view = cache.seen(memory[layer], look).unflatten(0, (-1, 3))
        assert view.shape == (look.end - look.begin, 3, look.window, 4)
        for row in range(look.end - look.begin):
            kept = slice(None) if look.mask is None else look.mask[row, 0, 0] == 0
            assert torch.equal(view[row, 0], view[row, 2])
            found.append(view[row, 1, kept, 3].tolist())
    return found


def test_rows_see_their_own_past_whatever_happens_beside_them() -> None:
    draw = random.Random(3)
    for split in (True, False):
        cache: RowCache[int] = RowCache(
            layers=2, heads=3, size=4, room=600, like=torch.zeros(1), split=split
        )  # fmt: skip
        lengths: dict[int, int] = {}
        for step in range(150):
            if step % 9 == 0:
                entering = {step * 10 + i: draw.choice([3, 4, 30, 31, 200, 420]) for i in range(draw.randint(1, 4))}
                cache.add([(row, _prefix(row, n, shared=n // 2)) for row, n in entering.items()])
                lengths |= entering
            if step % 5 == 4 and len(lengths) > 1:
                gone = draw.choice(sorted(lengths))
                cache.drop(gone)
                del lengths[gone]
            layer = step % 2
            for memory, sign in ((cache.keys, 1), (cache.values, -1)):
                seen = _seen(cache, layer, memory)
                for row in lengths:
                    lengths[row] += 1
                assert sorted(cache.owners) == sorted(lengths)
                for row, past in zip(cache.owners, seen, strict=True):
                    assert past == [sign * _past(row, position) for position in range(lengths[row])]
            for row in [row for row, n in lengths.items() if n > 590]:
                cache.drop(row)
                del lengths[row]


def test_rows_of_one_length_stand_together_and_need_no_mask() -> None:
    cache: RowCache[int] = RowCache(layers=2, heads=3, size=4, room=600, like=torch.zeros(1), split=True)
    cache.add([(row, _prefix(row, 50)) for row in range(8)])
    (look,) = cache.begin_step().looks
    assert (look.end - look.begin, look.window, look.mask) == (8, 51, None)


def test_a_long_row_does_not_widen_the_window_of_many_short_ones() -> None:
    cache: RowCache[int] = RowCache(layers=2, heads=3, size=4, room=600, like=torch.zeros(1), split=True)
    cache.add([(row, _prefix(row, 500 if row == 3 else 50 + row % 2)) for row in range(16)])
    first, second = cache.begin_step().looks
    assert (first.end - first.begin, first.window) == (1, 501)
    assert (second.end - second.begin, second.window) == (15, 52)


def test_cuts_are_the_cheapest_of_all() -> None:
    def cost(lengths: list[int], cuts: list[tuple[int, int]]) -> int:
        return sum((end - begin) * lengths[begin] + 192 for begin, end in cuts)

    draw = random.Random(1)
    for _ in range(30):
        lengths = sorted((draw.randint(1, 600) for _ in range(7)), reverse=True)
        every = []
        for bits in range(2**6):
            edges = [0, *(i + 1 for i in range(6) if bits >> i & 1), 7]
            every.append(cost(lengths, list(pairwise(edges))))
        assert cost(lengths, list(_cuts(lengths))) == min(every)
