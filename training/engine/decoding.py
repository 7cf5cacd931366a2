"""Token by token: prompts are read once, without padding, and one forward step gives every row in work its next logits.

Rows are completions in work. A prompt's keys and values are copied to each of its completions; positions come from
each row's own length, and a finished row leaves at once (`row_cache`). Models of Llama's plan are read and stepped
through here, with weights held for few rows (`held_weights`); others by their own code with our cache, and these are
compared with the model's own attention first: what our cache does not know (a chunk, a sink, a cap) is refused.
Knows nothing of sampling, text or files.

B rows in work, P prompts, N tokens of all prompts together, L layers, H key/value heads, G query heads for each of
them, E size of a head, D hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, rms_norm, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaModel

from training.engine import models
from training.engine.errors import ModelError
from training.engine.held_weights import Product, has_plain_weight, hold, joined
from training.engine.row_cache import Prefix, RowCache, Step
from training.engine.sections import Weights

Owner = TypeVar("Owner")

_Parts = tuple[tuple[Tensor, Tensor], ...]  # `Prefix.parts`

_ATTENTION = "winnow_decoding"
_READ_TOKENS = 2048  # positions of prompts read at one time: bounds memory, and larger products are no faster
_SHARED_TOKENS = 8  # a beginning that prompts have in common is read once if it is as long as this
# Rotary embeddings that are a table of positions; others depend on the longest text in the batch.
_TABLES = {"default", "linear", "llama3", "yarn"}
_CHECK_TOKENS = 2048  # positions of the text that a model's own code is compared on, where it has no longer window
_CHECK_TOLERANCE = 1e-4  # of a hidden state, relative to the greatest, fp32: a key too many moves it by far more
_checked: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # positions that a trunk was compared on


class _Plan(Protocol):
    """How a model is run. Both methods give hidden states after the last norm."""

    def read(self, prompts: Sequence[list[int]]) -> tuple[Tensor, list[_Parts]]:
        """Hidden states [P, D] at the last tokens, and keys and values of each prompt as in `Prefix.parts`."""
        ...

    def step(self, tokens: Tensor, step: Step, cache: RowCache[Any]) -> Tensor:
        """[B] → [B, D]."""
        ...


class Decoder(Generic[Owner]):
    """The rows in work of one model, each known by what the caller gave to `add`.

    `room` is the most positions of a row, prompt included; weights are laid out for about `rows` rows at one time.
    They are copied: a decoder is made for a batch of completions, and does not see what training does later.
    """

    @torch.no_grad()
    def __init__(self, model: Any, *, room: int, rows: int = 32, weights: Weights = Weights.FP32) -> None:
        trunk = models.trunk(model)
        head = models.lm_head_weight(model).detach()
        kind = head.device.type
        if weights is Weights.FP32 and torch.is_autocast_enabled(kind):
            weights = Weights.BF16  # autocast over fp32 weights means that products are in bf16
        self._device = head.device
        self._head = hold(head, None, weights=weights, rows=rows)
        self.steps_by_own_code = not _is_plain_llama(trunk)
        if self.steps_by_own_code:
            _check_own_code(trunk, room=room, like=head)
        self._plan: _Plan = (
            _OwnCode(trunk) if self.steps_by_own_code else _Llama(trunk, room=room, rows=rows, weights=weights)
        )
        # On a GPU a call costs more than what it looks at.
        split = kind == "cpu" and not self.steps_by_own_code
        self._cache: RowCache[Owner] = _empty_cache(trunk, room=room, like=head, split=split)

    @property
    def rows(self) -> list[Owner]:
        return self._cache.owners

    @torch.inference_mode()
    def read(self, prompts: Sequence[list[int]]) -> list[Prefix]:
        """Run P prompts through the model; no row is begun."""
        found: list[Prefix] = []
        for begin, end in _portions([len(ids) for ids in prompts]):
            hidden, parts = self._plan.read(prompts[begin:end])
            found += [Prefix(parts=p, logits=row) for p, row in zip(parts, self._head(hidden), strict=True)]
        return found

    @torch.inference_mode()
    def add(self, entering: Sequence[tuple[Owner, Prefix]]) -> None:
        """Begin rows with prompts that have been read."""
        self._cache.add(entering)

    @torch.inference_mode()
    def drop(self, row: Owner) -> None:
        self._cache.drop(row)

    @torch.inference_mode()
    def step(self, next_token: Callable[[Owner], int]) -> tuple[list[Owner], Tensor]:
        """Give each row its next token; returns the rows and, in their order, the logits after it, [B, V] fp32."""
        step = self._cache.begin_step()
        rows = self._cache.owners
        tokens = torch.tensor([next_token(row) for row in rows], device=self._device)
        return rows, self._head(self._plan.step(tokens, step, self._cache))


def _empty_cache(trunk: Any, *, room: int, like: Tensor, split: bool) -> RowCache[Any]:
    config = trunk.config
    return RowCache(
        layers=config.num_hidden_layers,
        heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        room=room,
        like=like,
        split=split,
    )


def _portions(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring prompts whose tokens fit into _READ_TOKENS together; a longer one alone."""
    begin, used = 0, 0
    for place, length in enumerate(lengths):
        if place > begin and used + length > _READ_TOKENS:
            yield begin, place
            begin, used = place, 0
        used += length
    if lengths:
        yield begin, len(lengths)


# --- Llama's plan -----------------------------------------------------------------------------------------------------


def _is_plain_llama(trunk: Any) -> bool:
    """Whether the trunk is Llama's with nothing in it that `_Llama` does not know."""
    kind: type = type(trunk)
    if kind is not LlamaModel or trunk.config.rope_parameters["rope_type"] not in _TABLES:
        return False
    return all(has_plain_weight(part) for layer in trunk.layers for part in _linears(layer))


def _linears(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_proj,
        mlp.up_proj,
        mlp.down_proj,
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    before: Tensor  # weight of the norm before attention
    qkv: Product
    out: Product
    between: Tensor  # weight of the norm before the MLP
    gate_up: Product
    down: Product


class _Llama:
    """`LlamaModel.forward` over a flat list of tokens, of prompts or of one token a row."""

    def __init__(self, trunk: Any, *, room: int, rows: int, weights: Weights) -> None:
        held = partial(joined, weights=weights, rows=rows)
        config, attention = trunk.config, trunk.layers[0].self_attn
        self._embeddings = trunk.embed_tokens.weight.detach()
        self._eps = config.rms_norm_eps
        self._activation = trunk.layers[0].mlp.act_fn
        self._scale = attention.scaling
        self._heads, self._groups = config.num_key_value_heads, attention.num_key_value_groups  # H, G
        self._layers = [
            _Layer(
                before=layer.input_layernorm.weight.detach(),
                qkv=held([layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
                out=held([layer.self_attn.o_proj]),
                between=layer.post_attention_layernorm.weight.detach(),
                gate_up=held([layer.mlp.gate_proj, layer.mlp.up_proj]),
                down=held([layer.mlp.down_proj]),
            )
            for layer in trunk.layers
        ]
        self._last_norm = trunk.norm.weight.detach()
        positions = torch.arange(room, device=self._embeddings.device)[None]
        cos, sin = trunk.rotary_emb(self._embeddings, position_ids=positions)  # [1, room, E]
        half = cos.shape[-1] // 2
        self._cos = cos[0]
        self._sin = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)  # rotate_half's sign: a roll is enough

    def step(self, tokens: Tensor, step: Step, cache: RowCache[Any]) -> Tensor:
        H, G, B = self._heads, self._groups, len(tokens)

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            own_keys, own_values = cache.keys[layer], cache.values[layer]
            own_keys.index_copy_(0, step.places, keys.reshape(B * H, -1))
            own_values.index_copy_(0, step.places, values.reshape(B * H, -1))
            # The G queries that share a key/value head stand where a sequence would: nothing is copied G times.
            grouped = queries.reshape(B * H, G, -1)
            found = [
                _attend_once(
                    grouped[look.begin * H : look.end * H],
                    cache.seen(own_keys, look),
                    cache.seen(own_values, look),
                    mask=look.mask,
                    scale=self._scale,
                )
                for look in step.looks
            ]
            return (found[0] if len(found) == 1 else torch.cat(found)).view(B, -1)

        return self._run(tokens, step.positions, attend)

    def read(self, prompts: Sequence[list[int]]) -> tuple[Tensor, list[_Parts]]:
        """All prompts as one flat list of tokens; what they begin with in common stands before them, once."""
        shared = _common_beginning(prompts)
        device, c = self._embeddings.device, shared
        owns = [ids[c:] for ids in prompts]
        tokens = [*prompts[0][:c], *(token for ids in owns for token in ids)]
        positions = [*range(c), *(c + place for ids in owns for place in range(len(ids)))]
        ends = torch.tensor([len(ids) for ids in owns]).cumsum(0).add(c).tolist()
        spans = [(end - len(ids), end) for ids, end in zip(owns, ends, strict=True)]
        H, G, E = self._heads, self._groups, self._cos.shape[-1]
        all_keys, all_values = (self._embeddings.new_empty(len(self._layers), len(tokens), H, E) for _ in range(2))

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            all_keys[layer], all_values[layer] = keys, values
            q = queries.transpose(0, 1)[None]  # [1, H·G, N, E]
            k, v = (own.repeat_interleave(G, dim=1).transpose(0, 1)[None] for own in (keys, values))
            found = q.new_empty(len(tokens), H * G, E)
            if c:
                found[:c] = _causal(q[:, :, :c], k[:, :, :c], v[:, :, :c], self._scale)
            for begin, end in spans:
                own_k, own_v = k[:, :, begin:end], v[:, :, begin:end]
                if c:
                    own_k = torch.cat((k[:, :, :c], own_k), dim=2)
                    own_v = torch.cat((v[:, :, :c], own_v), dim=2)
                found[begin:end] = _causal(q[:, :, begin:end], own_k, own_v, self._scale)
            return found.view(len(tokens), -1)

        hidden = self._run(torch.tensor(tokens, device=device), torch.tensor(positions, device=device), attend)
        common = ((all_keys[:, :c], all_values[:, :c]),) if c else ()
        parts: list[_Parts] = [(*common, (all_keys[:, begin:end], all_values[:, begin:end])) for begin, end in spans]
        return hidden[[end - 1 for _, end in spans]], parts

    def _run(
        self, tokens: Tensor, positions: Tensor, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """[N] → [N, D]; `attend` gets queries [N, H·G, E], keys and values [N, H, E] of a layer, returns [N, H·G·E]."""
        H, HG, N = self._heads, self._heads * self._groups, len(tokens)
        x = embedding(tokens, self._embeddings)
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]  # [N, 1, E]
        E = cos.shape[-1]
        for index, layer in enumerate(self._layers):
            heads = layer.qkv(self._norm(x, layer.before)).view(N, HG + 2 * H, E)
            turned = heads[:, : HG + H]
            turned = torch.addcmul(turned * cos, turned.roll(E // 2, -1), sin)
            x = x + layer.out(attend(index, turned[:, :HG], turned[:, HG:], heads[:, HG + H :]))
            gate, up = layer.gate_up(self._norm(x, layer.between)).chunk(2, dim=-1)
            x = x + layer.down(self._activation(gate) * up)
        return self._norm(x, self._last_norm)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight.shape, weight, self._eps)


def _attend_once(queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of one token a row: queries [rows·H, G, E], keys and values [rows·H, window, E] → [rows·H, G, E].

    For so few queries three plain products take two thirds of the time of PyTorch's own attention on a CPU.
    """
    scores = torch.bmm(queries * scale, keys.transpose(1, 2))  # [rows·H, G, window]
    if mask is not None:
        scores.view(len(mask), -1, mask.shape[-1]).add_(mask[:, 0])
    return torch.bmm(scores.softmax(dim=-1), values)


def _causal(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """The last n of m positions look at those up to themselves: [1, heads, n, E], [1, heads, m, E] → [n, heads, E]."""
    n, m = queries.shape[2], keys.shape[2]
    mask = None
    if n < m:
        mask = torch.ones(n, m, dtype=torch.bool, device=queries.device).tril(m - n)
    out = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out[0].transpose(0, 1)


def _common_beginning(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with (a system message, mostly), less what each needs of its own."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)  # what the least and the greatest share, those between share too
    most = min(len(ids) for ids in prompts) - 1
    common = next((i for i in range(most) if first[i] != last[i]), most)
    return common if common >= _SHARED_TOKENS else 0


# --- other plans ------------------------------------------------------------------------------------------------------


class _OwnCode:
    """Any decoder of transformers: its own forward, which sees this as its cache."""

    def __init__(self, trunk: Any) -> None:
        self._trunk = trunk
        self._read: list[tuple[Tensor, Tensor]] | None = None
        self._at: tuple[Step, RowCache[Any]] | None = None

    def read(self, prompts: Sequence[list[int]]) -> tuple[Tensor, list[_Parts]]:
        """Prompts filled up on the right, where nothing looks."""
        lengths = [len(ids) for ids in prompts]
        device, T = self._trunk.embed_tokens.weight.device, max(lengths)
        tokens = torch.tensor([[*ids, *[0] * (T - len(ids))] for ids in prompts], device=device)  # [P, T]
        causal = torch.ones(1, 1, T, T, dtype=torch.bool, device=device).tril()
        self._read = []
        try:
            hidden = self._forward(tokens, torch.arange(T, device=device).expand(len(prompts), -1), causal)
            keys, values = (torch.stack(side).transpose(2, 3) for side in zip(*self._read, strict=True))
        finally:
            self._read = None
        last = torch.tensor(lengths, device=device) - 1
        parts: list[_Parts] = [((keys[:, p, :n], values[:, p, :n]),) for p, n in enumerate(lengths)]  # [L, n, H, E]
        return hidden[torch.arange(len(prompts), device=device), last], parts

    def step(self, tokens: Tensor, step: Step, cache: RowCache[Any]) -> Tensor:
        (look,) = step.looks
        if look.mask is None:
            mask = torch.ones(len(tokens), 1, 1, look.window, dtype=torch.bool, device=tokens.device)
        else:
            mask = look.mask == 0
        self._at = step, cache
        try:
            return self._forward(tokens[:, None], step.positions[:, None], mask)[:, 0]
        finally:
            self._at = None

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The cache's part that transformers calls: keys and values [B, H, T, E] of a layer; returns what is seen."""
        if self._read is not None:
            self._read.append((keys, values))
            return keys, values
        assert self._at is not None
        step, cache = self._at
        (look,) = step.looks
        seen: list[Tensor] = []
        for memory, new in ((cache.keys[layer], keys), (cache.values[layer], values)):
            memory.index_copy_(0, step.places, new.flatten(0, 2).to(memory.dtype))
            look_at = cache.seen(memory, look)
            seen.append(look_at.view(len(new), -1, *look_at.shape[1:]))
        return seen[0], seen[1]

    def get_seq_length(self, _layer: int = 0) -> int:
        return 0 if self._at is None else self._at[0].looks[0].window

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        config = self._trunk.config
        before = config._attn_implementation
        config._attn_implementation = _ATTENTION
        try:
            with _evaluating(self._trunk):
                out = self._trunk(
                    input_ids=tokens,
                    position_ids=positions,
                    attention_mask=mask,
                    past_key_values=self,
                    use_cache=True,
                )
        finally:
            config._attn_implementation = before
        hidden: Tensor = out.last_hidden_state
        return hidden


@contextlib.contextmanager
def _evaluating(trunk: Any) -> Iterator[None]:
    """Inside, the trunk is in eval mode: with the training flag and recomputed activations it takes no cache."""
    training = trunk.training
    if training:
        trunk.eval()
    try:
        yield
    finally:
        if training:
            trunk.train()


@torch.inference_mode()
def _check_own_code(trunk: Any, *, room: int, like: Tensor) -> None:
    """Once a model and length: two texts read and stepped through our cache as the model's own attention reads them.

    Raises:
        ModelError: they differ.
    """
    window = getattr(trunk.config, "sliding_window", None) or 0
    length = min(room, max(_CHECK_TOKENS, window + 64))
    if length < 4 or _checked.get(trunk, 0) >= length:
        return
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(trunk.config.vocab_size, (length,), generator=generator)
    plan, cache = _OwnCode(trunk), _empty_cache(trunk, room=length, like=like, split=False)
    ends = {"long": length - 2, "short": length // 2 - 2}  # of what is read; two tokens of each are stepped through
    ends = {name: max(1, end) for name, end in ends.items()}
    with torch.autocast(like.device.type, enabled=False):
        with _evaluating(trunk):  # one text is the beginning of the other, so that one pass says what both must be
            own = trunk(input_ids=ids[None].to(like.device), use_cache=False).last_hidden_state[0]
        hidden, parts = plan.read([ids[:end].tolist() for end in ends.values()])
        pairs = [(hidden[place], own[end - 1]) for place, end in enumerate(ends.values())]
        prefixes = [Prefix(parts=part, logits=like.new_empty(0)) for part in parts]
        cache.add(list(zip(ends, prefixes, strict=True)))
        for number in range(2):
            step = cache.begin_step()
            places = [ends[name] + number for name in cache.owners]
            found = plan.step(ids[places].to(like.device), step, cache)
            pairs += [(row, own[place]) for row, place in zip(found, places, strict=True)]
    off = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    if not off <= _CHECK_TOLERANCE * float(own.abs().max()):
        raise ModelError(
            f"{type(trunk).__name__} cannot be sampled from token by token: a text of {length} tokens gives hidden "
            f"states that are {off:.2e} off those of a whole pass (greatest {float(own.abs().max()):.2e})"
        )
    _checked[trunk] = length


def _attend(
    _module: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: queries [B, H·G, T, E] → [B, T, H·G, E]; mask [B, 1, T, S] bool.

    With a sliding window W a token sees itself and the W − 1 before it.
    """
    window = options.get("sliding_window")
    if window is not None and window < mask.shape[-1]:
        positions = torch.arange(mask.shape[-1], device=mask.device)
        mask = mask & (positions >= mask.sum(-1, keepdim=True) - window)  # all before a token are there, so Σ = t + 1
    out = scaled_dot_product_attention(
        queries, keys.to(queries.dtype), values.to(queries.dtype), attn_mask=mask, scale=options.get("scaling"),
        enable_gqa=True,
    )  # fmt: skip
    return out.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attend)
