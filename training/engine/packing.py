"""Packs: prompts with all their completions in one row, each prompt read once. Knows tokens, not what they are for.

A pack is [P, C1 … CK] group after group. Positions of every completion start at |P|. Token i sees token j ⇔ both are
in one group, j is in the prompt or in i's own completion, and j ≤ i. The first token of every completion is
predicted by the last row of its prompt. No padding, so no mask is ever derived from an id.

N positions of the pack; C scored completion tokens in it; K completions in it; H heads; D hidden size.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from training.engine.models import base_of, trunk

ATTENTION = "winnow_packed"
"""Name of the attention function: packed where a call brings its branches, transformers' own SDPA otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """One prompt and the completions that share it, as ids. A prompt has at least one token.

    `scored` says for each token of each completion whether it is scored; None: all are. (A conversation is one
    completion whose scored tokens are the assistant's.)
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    scored: tuple[tuple[bool, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.scored is not None and [*map(len, self.scored)] != [*map(len, self.completions)]:
            raise ValueError("scored must have one flag for each token of each completion")

    @property
    def positions(self) -> int:
        """Rows that it takes in a pack."""
        return len(self.prompt) + sum(map(len, self.completions))

    @property
    def tokens(self) -> int:
        """Prompt + completion tokens, the prompt counted once per completion: the unit of all speeds."""
        return len(self.prompt) * len(self.completions) + sum(map(len, self.completions))


@dataclass(frozen=True, slots=True)
class Branch:
    """A completion that reads its prompt from elsewhere in the row: rows [start, stop), mask [T, n + T]."""

    prompt_start: int
    prompt_stop: int
    start: int
    stop: int
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """What the attention function needs: `trunks` are [P, C1], read causally; `branches` are C2 … CK."""

    trunks: tuple[tuple[int, int], ...]
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """`owner` numbers the completions of the pack in order: group by group, completion by completion.

    Its scored tokens are flat, in the order of the completions; tokens that are not scored are only read.
    """

    ids: Tensor  # [N]
    positions: Tensor  # [N]
    rows: Tensor  # [C] the row whose hidden state predicts the token
    targets: Tensor  # [C]
    owner: Tensor  # [C] ascending
    last: Tensor  # [K] the row of the last completion token (of the prompt where the completion is empty)
    lengths: Tensor  # [K] scored tokens, the end token included
    tokens: int
    layout: Layout


def plan_packs(sizes: Sequence[int], *, micro_tokens: int) -> list[list[int]]:
    """Indices of the items of each pack: longest first, each into the first pack with room for it.

    An item longer than `micro_tokens` is a pack of its own. Every index appears once.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        for number, free in enumerate(room):
            if sizes[index] <= free:
                packs[number].append(index)
                room[number] -= sizes[index]
                break
        else:
            packs.append([index])
            room.append(micro_tokens - sizes[index])
    return packs


def build_pack(groups: Sequence[Sharing], *, device: torch.device) -> Pack:
    """Lay the groups one after the other into a row."""
    ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    last: list[int] = []
    trunks: list[tuple[int, int]] = []
    branches: list[Branch] = []
    for group in groups:
        start, prompt = len(ids), len(group.prompt)
        ids += group.prompt
        positions += range(prompt)
        for number, completion in enumerate(group.completions):
            begin, length = len(ids), len(completion)
            ids += completion
            positions += range(prompt, prompt + length)
            predicting = [start + prompt - 1, *range(begin, begin + length - 1)][:length]
            flags = group.scored[number] if group.scored is not None else (True,) * length
            rows += itertools.compress(predicting, flags)
            targets += itertools.compress(completion, flags)
            lengths.append(sum(flags))
            last.append(begin + length - 1 if length else start + prompt - 1)
            if number == 0:
                trunks.append((start, begin + length))
            elif length:
                own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
                mask = torch.cat([own.new_ones(length, prompt), own], dim=1)
                branches.append(Branch(start, start + prompt, begin, begin + length, mask))
    owner = [number for number, length in enumerate(lengths) for _ in range(length)]

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Pack(
        ids=tensor(ids),
        positions=tensor(positions),
        rows=tensor(rows),
        targets=tensor(targets),
        owner=tensor(owner),
        last=tensor(last),
        lengths=tensor(lengths),
        tokens=sum(group.tokens for group in groups),
        layout=Layout(tuple(trunks), tuple(branches)),
    )


def use_packed_attention(model: Any) -> None:
    """Let a model read packs; without a pack it goes on as before (SDPA), so the same model samples."""
    base_of(model).set_attn_implementation(ATTENTION)


def hidden_states(model: Any, pack: Pack) -> Tensor:
    """The last hidden state of every row of a pack, [N, D]."""
    # A mask of four dimensions is handed on untouched; ours is empty, for the layout says everything.
    nothing = torch.empty(1, 1, 0, 0, device=pack.ids.device)
    output = trunk(model)(
        input_ids=pack.ids[None],
        position_ids=pack.positions[None],
        attention_mask=nothing,
        use_cache=False,
        packed_layout=pack.layout,
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def _attention(
    module: torch.nn.Module,
    query: Tensor,  # [1, H, N, d]
    key: Tensor,  # [1, H_kv, N, d]
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention inside each group, segment by segment, in the order of the row."""
    if packed_layout is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output, None
    if kwargs.get("sliding_window") is not None:
        raise NotImplementedError("packs with a sliding window")
    grouped = query.shape[1] != key.shape[1]
    pieces: list[tuple[int, Tensor]] = []
    for start, stop in packed_layout.trunks:
        piece = scaled_dot_product_attention(
            query[:, :, start:stop],
            key[:, :, start:stop],
            value[:, :, start:stop],
            is_causal=True,
            scale=scaling,
            enable_gqa=grouped,
        )
        pieces.append((start, piece))
    for branch in packed_layout.branches:
        prompt, own = slice(branch.prompt_start, branch.prompt_stop), slice(branch.start, branch.stop)
        piece = scaled_dot_product_attention(
            query[:, :, own],
            torch.cat([key[:, :, prompt], key[:, :, own]], dim=2),
            torch.cat([value[:, :, prompt], value[:, :, own]], dim=2),
            attn_mask=branch.mask,
            scale=scaling,
            enable_gqa=grouped,
        )
        pieces.append((branch.start, piece))
    row = torch.cat([piece for _, piece in sorted(pieces, key=lambda pair: pair[0])], dim=2)
    return row.transpose(1, 2).contiguous(), None  # [1, N, H, d]


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
