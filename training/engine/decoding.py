"""Token by token: a key/value cache with a cursor for each row, and one forward step of all rows.

Rows are completions in work. A prompt is read (prefilled) once and its keys and values are copied to each of its
completions; a finished row's place is taken by the last row, so that no time goes into finished ones. There is no
padding: every row knows its own length, and positions come from it.
Knows nothing of sampling, text or files.

B rows in work, R rows of room, S positions of room, P prompts, L layers, H key/value heads, G query heads for each of
them, E size of a head, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaModel

from training.engine import models
from training.engine.sections import Weights

_ATTENTION = "winnow_decoding"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefix:
    """A prompt that has been read: keys and values of its n tokens, and the logits of the token after them."""

    keys: Tensor  # [L, H, n, E]
    values: Tensor  # [L, H, n, E]
    logits: Tensor  # [V]


class _Cache:
    """What the transformers decoder sees as its cache: `update` stores and returns keys and values of one layer."""

    def __init__(self, *, layers: int, rows: int, heads: int, room: int, size: int, like: Tensor) -> None:
        kind = like.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
        # Zeros, not empty: a NaN left in memory would pass through a masked position.
        self.keys = like.new_zeros(layers, rows, heads, room, size, dtype=dtype)  # [L, R, H, S, E]
        self.values = like.new_zeros(layers, rows, heads, room, size, dtype=dtype)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=like.device)  # [R]
        self.all_rows = torch.arange(rows, device=like.device)
        self.rows = self.all_rows[:0]
        self.cursors = self.lengths[:0]
        self.window = 0
        self.read: list[tuple[Tensor, Tensor]] | None = None

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, 1, E] of one step; while prompts are read [P, H, n, E], which are set aside."""
        if self.read is not None:
            self.read.append((keys, values))
            return keys, values
        return self.store(keys[:, :, 0], values[:, :, 0], layer)

    def store(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write [B, H, E] at the rows' cursors; returns what the rows attend to, [B, H, window, E] twice."""
        all_keys, all_values = self.keys[layer], self.values[layer]
        all_keys[self.rows, :, self.cursors] = keys.to(all_keys.dtype)
        all_values[self.rows, :, self.cursors] = values.to(all_values.dtype)
        active = len(self.rows)
        return all_keys[:active, :, : self.window], all_values[:active, :, : self.window]

    def get_seq_length(self, _layer: int = 0) -> int:
        return self.window


def _attend(
    _module: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: queries [B, H·G, T, E] → [B, T, H·G, E]."""
    B, heads, T, E = queries.shape
    scale = options.get("scaling")
    if T > 1 or mask is None:
        out = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=True)
        return out.transpose(1, 2), None
    # The G queries that share a key/value head stand where a sequence would: no key or value is copied G times.
    H = keys.shape[1]
    grouped = queries.reshape(B, H, heads // H, E)
    out = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return out.reshape(B, 1, heads, E), None


ALL_ATTENTION_FUNCTIONS.register(_ATTENTION, _attend)


class Decoder:
    """The rows in work of one model. `rows` rows of room, each for `room` positions, prompt included."""

    def __init__(self, model: Any, *, rows: int, room: int, weights: Weights = Weights.FP32) -> None:
        assert weights is Weights.FP32
        self._trunk = models.trunk(model)
        self._head = models.lm_head_weight(model)
        config = self._trunk.config
        heads = config.num_attention_heads
        self._cache = _Cache(
            layers=config.num_hidden_layers,
            rows=rows,
            heads=getattr(config, "num_key_value_heads", None) or heads,
            room=room,
            size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            like=self._head.detach(),
        )
        # Layers of Llama's plan are stepped through here, with few small operations; others by their own code.
        self.steps_by_own_code = type(self._trunk) is not LlamaModel
        self._step = self._own_step if self.steps_by_own_code else self._llama_step
        self.active = 0

    @torch.no_grad()
    def read(self, prompts: Sequence[list[int]]) -> list[Prefix]:
        """Run P prompts through the model, filled up on the right where nothing looks; no row is begun."""
        lengths = [len(ids) for ids in prompts]
        device, n = self._head.device, max(lengths)
        tokens = torch.tensor([[*ids, *[0] * (n - len(ids))] for ids in prompts], device=device)  # [P, n]
        self._cache.read = []
        try:
            hidden = self._forward(tokens, torch.arange(n, device=device).expand(len(prompts), -1), None)
            keys = torch.stack([k for k, _ in self._cache.read], dim=1)  # [P, L, H, n, E]
            values = torch.stack([v for _, v in self._cache.read], dim=1)
        finally:
            self._cache.read = None
        last = torch.tensor(lengths, device=device) - 1
        logits = self._logits(hidden[torch.arange(len(prompts), device=device), last])
        # Cloned, so that a kept prefix does not keep the whole batch in memory.
        return [
            Prefix(keys=keys[p, :, :, :length].clone(), values=values[p, :, :, :length].clone(), logits=logits[p])
            for p, length in enumerate(lengths)
        ]

    def add(self, prefix: Prefix) -> None:
        """Begin a row behind the others with a prompt that has been read."""
        row, length = self.active, prefix.keys.shape[2]
        self._cache.keys[:, row, :, :length] = prefix.keys
        self._cache.values[:, row, :, :length] = prefix.values
        self._cache.lengths[row] = length
        self.active += 1

    def drop(self, row: int) -> None:
        """End a row; the last row takes its place (and its number)."""
        cache, last = self._cache, self.active - 1
        if row != last:
            length = int(cache.lengths[last])
            cache.keys[:, row, :, :length] = cache.keys[:, last, :, :length]
            cache.values[:, row, :, :length] = cache.values[:, last, :, :length]
            cache.lengths[row] = length
        self.active = last

    @torch.no_grad()
    def step(self, tokens: list[int]) -> Tensor:
        """Give each row its next token; returns the logits of the one after, [B, V] fp32."""
        cache, active = self._cache, self.active
        assert len(tokens) == active
        cursors = cache.lengths[:active]
        cache.rows, cache.cursors, cache.window = cache.all_rows[:active], cursors.clone(), int(cursors.max()) + 1
        mask = torch.arange(cache.window, device=cursors.device) <= cursors[:, None]  # [B, S]
        hidden = self._step(torch.tensor(tokens, device=cursors.device), cursors, mask[:, None, None])
        cursors += 1
        return self._logits(hidden)

    def _logits(self, hidden: Tensor) -> Tensor:
        return _product(hidden, self._head, None).float()

    def _own_step(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        return self._forward(tokens[:, None], positions[:, None], mask)[:, 0]

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """The model's own code with our cache and attention; `mask` None reads a prompt."""
        T = tokens.shape[1]
        causal = torch.ones(1, 1, T, T, dtype=torch.bool, device=tokens.device).tril() if mask is None else mask
        config = self._trunk.config
        before = config._attn_implementation
        config._attn_implementation = _ATTENTION
        try:
            out = self._trunk(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=causal,
                past_key_values=self._cache,
                use_cache=True,
            )
        finally:
            config._attn_implementation = before
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _llama_step(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """`LlamaModel.forward` for one token a row, with the same modules (adapters included) and weights."""
        trunk, B = self._trunk, tokens.shape[0]
        x = trunk.embed_tokens(tokens)  # [B, D]
        cos, sin = trunk.rotary_emb(x, position_ids=positions[:, None])  # [B, 1, E]
        half = cos.shape[-1] // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)  # rotate_half's sign, so that a roll is enough
        for index, layer in enumerate(trunk.layers):
            attention, mlp = layer.self_attn, layer.mlp
            h = _norm(x, layer.input_layernorm)
            queries, keys, values = (
                _apply(getattr(attention, name), h).view(B, -1, attention.head_dim)
                for name in ("q_proj", "k_proj", "v_proj")
            )
            queries = queries * cos + queries.roll(half, -1) * sin  # [B, H·G, E]
            keys = keys * cos + keys.roll(half, -1) * sin
            all_keys, all_values = self._cache.store(keys, values, index)
            out, _ = _attend(attention, queries[:, :, None], all_keys, all_values, mask, scaling=attention.scaling)
            x = x + _apply(attention.o_proj, out.view(B, -1))
            h = _norm(x, layer.post_attention_layernorm)
            x = x + _apply(mlp.down_proj, mlp.act_fn(_apply(mlp.gate_proj, h)) * _apply(mlp.up_proj, h))
        return _norm(x, trunk.norm)


def _norm(x: Tensor, norm: Any) -> Tensor:
    return rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _apply(layer: Any, x: Tensor) -> Tensor:
    """A linear layer of few rows; one that is wrapped (an adapter) runs its own code."""
    if type(layer) is nn.Linear:
        return _product(x, layer.weight, layer.bias)
    out: Tensor = layer(x)
    return out


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b; for few rows as (W xᵀ)ᵀ: MKL shares such a product between threads by rows of its first factor.

    All products of a step of SmolLM2-135M on two threads: 8 rows 32 against 41 ms, 32 rows 64 against 73; on one thread
    it is 10 % slower.
    """
    few = 2 <= x.shape[0] <= 32 and x.device.type == "cpu" and torch.get_num_threads() > 1
    if not few:
        return linear(x, weight, bias)
    out = torch.mm(weight, x.t()).t().contiguous()
    return out if bias is None else out + bias
