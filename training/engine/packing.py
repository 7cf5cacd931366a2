"""Packs: prompts with all their completions in one row, each prompt read once. Knows tokens, not what they are for.

A pack is [P, C1 … CK] group after group. Positions of every completion start at |P|. Token i sees token j ⇔ both are
in one group, j is in the prompt or in i's own completion, and j ≤ i. The first token of every completion is
predicted by the last row of its prompt. No padding, so no mask is ever derived from an id.

N positions of the pack; C scored completion tokens in it; K completions in it; H heads; D hidden size.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from training.engine.models import base_of, trunk
from training.engine.sections import Dtype

ATTENTION = "winnow_packed"
"""Name of the attention function: packed where a call brings its branches, transformers' own SDPA otherwise."""
EXACT = {Dtype.FP32: 1e-5, Dtype.BF16: 1e-2}
"""Largest relative difference of a hidden state in a pack; more, and the model is read completion by completion."""
PADDED = "winnow_padded"
"""Name of transformers' own SDPA for a model that reads a pack's completions as padded rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """One prompt and the completions that share it, as ids. A prompt has at least one token and one completion.

    `scored` says for each token of each completion whether it is scored; None: all are. (A conversation is one
    completion whose scored tokens are the assistant's.)
    """

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    scored: tuple[tuple[bool, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.prompt:  # its first token would be predicted by whatever stands before it in the pack
            raise ValueError("a prompt must have a token that predicts the first one of its completions")
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
    longest: int
    """Tokens of the longest prompt and completion together."""
    blocks: BlockMask | None = None
    """The same rule for FlexAttention, where that is used."""


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
        trunks.append((start, start + prompt + len(group.completions[0])))
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
            if number and length:
                own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
                mask = torch.cat([own.new_ones(length, prompt), own], dim=1)
                branches.append(Branch(start, start + prompt, begin, begin + length, mask))
    owner = [number for number, length in enumerate(lengths) for _ in range(length)]

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    pack = Pack(
        ids=tensor(ids),
        positions=tensor(positions),
        rows=tensor(rows),
        targets=tensor(targets),
        owner=tensor(owner),
        last=tensor(last),
        lengths=tensor(lengths),
        tokens=sum(group.tokens for group in groups),
        layout=Layout(tuple(trunks), tuple(branches), longest=max(positions) + 1),
    )
    return with_blocks(pack) if device.type == "cuda" else pack


def with_blocks(pack: Pack) -> Pack:
    """The pack with the block mask of FlexAttention: row i sees row j ⇔ same group, j in the prompt or in i's branch,
    j ≤ i.
    """
    group = torch.zeros_like(pack.ids)  # [N]
    branch = torch.zeros_like(pack.ids)  # [N] 0 in the prompt and, read causally alike, in the first completion
    for start, _ in pack.layout.trunks[1:]:
        group[start:] += 1
    for number, part in enumerate(pack.layout.branches, start=1):
        branch[part.start : part.stop] = number
    # The first completion must not be seen by the others: it ends what "the prompt" is for them.
    prompt = torch.zeros_like(pack.ids, dtype=torch.bool)  # [N]
    for part in pack.layout.branches:
        prompt[part.prompt_start : part.prompt_stop] = True

    def sees(_batch: Tensor, _head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (group[i] == group[j]) & (prompt[j] | (branch[i] == branch[j])) & (j <= i)

    blocks = _block_mask(pack.layout, rows=len(pack.ids), sees=sees, device=pack.ids.device)
    return replace(pack, layout=replace(pack.layout, blocks=blocks))


def _block_mask(layout: Layout, *, rows: int, sees: Callable[..., Tensor], device: torch.device) -> BlockMask:
    """The mask by blocks, from the bounds of the segments: `create_block_mask` would ask `sees` about all N² pairs.

    Of a block of rows i and one of rows j, `some` says that an i may see a j; `full` counts the i that see every j.
    """
    size = 128  # of FlexAttention's blocks, its default
    count = -(-rows // size)
    some, full = np.zeros((count, count), dtype=bool), np.zeros((count, count), dtype=np.int64)
    segments = [(start, stop, (start, start)) for start, stop in layout.trunks]
    segments += [(part.start, part.stop, (part.prompt_start, part.prompt_stop)) for part in layout.branches]
    for start, stop, prompt in segments:
        for block in range(start // size, -(-stop // size)):
            own = min(stop, (block + 1) * size) - max(start, block * size)  # rows of the segment in the block
            some[block, start // size : block + 1] = True
            full[block, -(-start // size) : block] += own
            if prompt[0] < prompt[1]:
                some[block, prompt[0] // size : -(-prompt[1] // size)] = True
                full[block, -(-prompt[0] // size) : prompt[1] // size] += own
    whole = full == size
    some &= ~whole
    of_some, of_whole = (_in_order(torch.from_numpy(dense).to(device)) for dense in (some, whole))
    return BlockMask.from_kv_blocks(*of_some, *of_whole, BLOCK_SIZE=size, mask_mod=sees, seq_lengths=(rows, rows))


def _in_order(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks each row of [B, B] has, and which they are, those it has not after them."""
    number = blocks.sum(dim=1, dtype=torch.int32)
    which = blocks.int().argsort(dim=1, descending=True, stable=True).int()
    return number[None, None], which[None, None].contiguous()


def use_packed_attention(model: Any) -> None:
    """Let a model read packs; without a pack it goes on as before (SDPA), so the same model samples."""
    base_of(model).set_attn_implementation(ATTENTION)


def use_padded_rows(model: Any) -> None:
    """Let `hidden_states` give a model every completion as a row of its own, for models that cannot read packs."""
    base_of(model).set_attn_implementation(PADDED)


def layout_of(model: Any) -> str:
    """How `hidden_states` reads a model's packs; `use_layout` sets it again."""
    name: str = base_of(model).config._attn_implementation
    return name


def use_layout(model: Any, layout: str) -> None:
    """Let a model read packs as another one does (`layout_of`)."""
    base_of(model).set_attn_implementation(layout)


def read_in_packs_if_exact(model: Any, groups: Sequence[Sharing], *, tolerance: float) -> bool:
    """Set a model to packs where they give what its own attention gives, else to padded rows; returns which.

    Args:
        groups: a few to compare on, the longest one among them (a sliding window shows only in long texts).
        tolerance: largest difference of a hidden state, relative to the greatest.
    """
    use_padded_rows(model)
    if not groups:  # nothing to compare on, nor to read
        return False
    device = next(model.parameters()).device
    pack = build_pack(groups, device=device)
    with torch.no_grad():
        alone = hidden_states(model, pack).float()
        use_packed_attention(model)
        try:
            packed = hidden_states(model, pack).float()
        except (TypeError, RuntimeError, ValueError):  # layers that take no layout, or no mask of another form
            exact = False
        else:
            exact = float((packed - alone).abs().max()) <= tolerance * float(alone.abs().max())
    if not exact:
        use_padded_rows(model)
    return exact


def hidden_states(model: Any, pack: Pack) -> Tensor:
    """The last hidden state of every row of a pack, [N, D]."""
    if getattr(base_of(model).config, "_attn_implementation", None) == PADDED:
        return _hidden_states_of_padded_rows(model, pack)
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


def _hidden_states_of_padded_rows(model: Any, pack: Pack) -> Tensor:
    """[N, D] too: each completion with its prompt as a row with padding on its right, read by the model's own ways.

    A prompt's hidden states are those of its first completion's row; they are equal in all.
    """
    rows = [torch.arange(start, stop) for start, stop in pack.layout.trunks]
    rows += [
        torch.cat([torch.arange(part.prompt_start, part.prompt_stop), torch.arange(part.start, part.stop)])
        for part in pack.layout.branches
    ]
    sources = pad_sequence(rows, batch_first=True, padding_value=-1).to(pack.ids.device)  # [rows, longest] in the pack
    real = sources >= 0
    output = trunk(model)(
        input_ids=pack.ids[sources.clamp(min=0)] * real, attention_mask=real.long(), use_cache=False
    ).last_hidden_state
    place = torch.zeros_like(pack.ids)  # [N] where the row of the pack stands in the flat output
    flat = torch.arange(sources.numel(), device=sources.device).view_as(sources)
    for number in reversed(range(len(rows))):  # so that trunks, which come first, have the last word
        place[sources[number, real[number]]] = flat[number, real[number]]
    hidden: Tensor = output.flatten(0, 1)[place]
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
    """Attention inside each group: FlexAttention where the layout has blocks, else segment by segment."""
    if packed_layout is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return output, None
    window = kwargs.get("sliding_window")
    if window is not None and window < packed_layout.longest:
        raise NotImplementedError(f"packs longer than the sliding window of {window} tokens")
    if packed_layout.blocks is not None:
        kernel = _compiled_flex_attention() if query.is_cuda else flex_attention
        grouped = query.shape[1] != key.shape[1]
        row = kernel(query, key, value, block_mask=packed_layout.blocks, scale=scaling, enable_gqa=grouped)
    else:
        row = _by_segments(query, key, value, packed_layout, scaling=scaling)
    return row.transpose(1, 2).contiguous(), None  # [1, N, H, d]


@functools.cache
def _compiled_flex_attention() -> Any:
    """Uncompiled it would write out all N × N scores."""
    return torch.compile(flex_attention, dynamic=True)


def _by_segments(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, scaling: float | None) -> Tensor:
    """SDPA of each trunk and branch, in the order of the row.

    The row is split, not sliced: the gradient of a slice is as long as the row, for each segment anew.
    """
    grouped = query.shape[1] != key.shape[1]
    segments: list[tuple[int, Branch | None]] = [(start, None) for start, _ in layout.trunks]
    segments += [(branch.start, branch) for branch in layout.branches]
    segments.sort(key=lambda segment: segment[0])
    stops = [start for start, _ in segments[1:]] + [query.shape[2]]
    sizes = [stop - start for (start, _), stop in zip(segments, stops, strict=True)]
    pieces: list[Tensor] = []
    parts = [torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)]
    for (_, branch), q, k, v in zip(segments, *parts, strict=True):
        if branch is None:
            piece = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
            first_k, first_v, prompt = k, v, None
        else:
            if prompt is None:  # once a group, so that its gradients are summed before they are made as long as P + C1
                length = branch.prompt_stop - branch.prompt_start
                prompt = first_k[:, :, :length], first_v[:, :, :length]
            keys, values = torch.cat([prompt[0], k], dim=2), torch.cat([prompt[1], v], dim=2)
            piece = scaled_dot_product_attention(q, keys, values, branch.mask, scale=scaling, enable_gqa=grouped)
        pieces.append(piece)
    return torch.cat(pieces, dim=2)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
AttentionInterface.register(PADDED, sdpa_attention_forward)
AttentionMaskInterface.register(PADDED, sdpa_mask)
