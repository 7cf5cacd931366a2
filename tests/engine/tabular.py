"""A policy that is a table of logits, and runs of the engine's own trainers on it, in fp64.

The hidden state of a row is the one-hot vector of the prefix that ends there (or fixed features of it), the head is
the table: packing, log-probabilities, losses and loops run as they are on a language model. A prefix is known by its
tokens *and* its position, so a wrong position or a token of another completion is a state that the table does not know.
What samples enumerates: groups of G completions as multisets, whose weights are their exact probabilities, or real
samples, or the shares of a law rounded to counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.engine.tabular_worlds import Ids, World
from tests.engine.tiny import tiny_model
from training.engine import starting
from training.engine.checkpoint import Trained
from training.engine.config import parse_config
from training.engine.files import Status
from training.engine.loop import Lineage, Run
from training.engine.packing import PADDED, Layout, Sharing
from training.engine.pairs import Pair
from training.engine.presets import default_config, merge
from training.engine.records import Manifest
from training.engine.rollouts import Group
from training.engine.sampling import Completion
from training.engine.starting import Opening
from training.engine.supervision import Supervision
from training.engine.text import Text, load_text


class Table(nn.Module):
    """The trunk: what stands in a row is looked up by all tokens that it sees."""

    def __init__(self, features: Mapping[Ids, Tensor]) -> None:
        super().__init__()
        self.features = dict(features)
        self.width = len(next(iter(features.values())))

    def forward(
        self,
        *,
        input_ids: Tensor,  # [B, N]
        attention_mask: Tensor,
        use_cache: bool,
        position_ids: Tensor | None = None,
        packed_layout: Layout | None = None,
    ) -> Any:
        assert not use_cache
        rows = input_ids.tolist()
        if packed_layout is None:  # padded on the right: what is left of a token is all that it sees
            seen = [[tuple(row[: end + 1]) for end in range(len(row))] for row in rows]
        else:
            seen = [_seen_in_pack(rows[0], packed_layout)]
        if position_ids is not None:
            places = position_ids.tolist()
            seen = [
                [p if len(p) == place + 1 else () for p, place in zip(row, at, strict=True)]
                for row, at in zip(seen, places, strict=True)
            ]
        nothing = torch.zeros(self.width, dtype=torch.float64)
        hidden = torch.stack([torch.stack([self.features.get(prefix, nothing) for prefix in row]) for row in seen])
        return SimpleNamespace(last_hidden_state=hidden)


def _seen_in_pack(ids: Sequence[int], layout: Layout) -> list[Ids]:
    seen: list[Ids] = [()] * len(ids)
    for start, stop in layout.trunks:
        for row in range(start, stop):
            seen[row] = tuple(ids[start : row + 1])
    for branch in layout.branches:
        prompt = tuple(ids[branch.prompt_start : branch.prompt_stop])
        for row in range(branch.start, branch.stop):
            seen[row] = (*prompt, *ids[branch.start : row + 1])
    return seen


class TableLM(nn.Module):
    """As much of a transformers model as the engine touches: a trunk, and an LM head or a score head."""

    base_model_prefix = "table"
    dtype = torch.float64

    def __init__(
        self, states: Sequence[Ids], head: Tensor, *, features: Tensor | None = None, reward: bool = False
    ) -> None:
        """Args: states: prompt and prefix of each; head: [V, D], or [1, D] of a reward model; features: [S, D]."""
        super().__init__()
        rows = torch.eye(len(states), dtype=torch.float64) if features is None else features
        self.table = Table(dict(zip(states, rows, strict=True)))
        linear = nn.Linear(head.shape[1], head.shape[0], bias=False, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(head)
        self.embedding = SimpleNamespace(weight=torch.zeros(1, head.shape[1]))
        self.reward = reward
        setattr(self, "score" if reward else "head", linear)
        self.config = SimpleNamespace(_attn_implementation="winnow_packed", pad_token_id=0, use_cache=False)

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name

    def get_output_embeddings(self) -> Any:
        return None if self.reward else self.head

    def get_input_embeddings(self) -> Any:
        return self.embedding

    def save_pretrained(self, directory: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        save_file(dict(state_dict or self.state_dict()), Path(directory) / "model.safetensors")

    @property
    def logits(self) -> Tensor:
        """[S, V] where the hidden states are one-hot."""
        return self.head.weight.detach().T


def table_lm(states: Sequence[Ids], logits: Tensor) -> TableLM:
    """A policy with logits [S, V]."""
    return TableLM(states, logits.T)


def table_reward(completions: Sequence[Ids], scores: Tensor, *, prompt: Ids) -> TableLM:
    """A reward model that has a free score for each completion, [K]."""
    return TableLM([(*prompt, *ids) for ids in completions], scores[None], reward=True)


# --- samplers and a scorer --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class TablePrompt:
    id: str
    sharing: Sharing
    group: str = "g"
    prompt: tuple[Mapping[str, str], ...] = ({"role": "user", "content": "?"},)
    weight: float = 1.0


def prompts_of(world: World, count: int) -> list[TablePrompt]:
    return [TablePrompt(id=f"p{n}", sharing=Sharing(prompt=world.prompt, completions=())) for n in range(count)]


def _written(world: World, index: int, *, tokens: Sequence[float], number: int, prompt: str) -> Completion:
    ids = world.completions[index]
    return Completion(
        prompt_id=prompt,
        index=number,
        text=" ".join(map(str, ids)),
        token_ids=ids,
        token_logprobs=tuple(tokens),
        logprob=sum(tokens),
        sampler_logprob=sum(tokens),
        finish="end" if world.finished[index] else "length",
    )


def group_of(world: World, model: TableLM, indices: Sequence[int], *, weight: float, name: str) -> Group:
    logp = model.logits.log_softmax(1)
    place = {state: number for number, state in enumerate(world.states)}
    completions = []
    for number, index in enumerate(indices):
        y = world.completions[index]
        tokens = [float(logp[place[(*world.prompt, *y[:t])], y[t]]) for t in range(len(y))]
        completions.append(_written(world, index, tokens=tokens, number=number, prompt=name))
    return Group(
        id=name,
        group=name,
        prompt=({"role": "user", "content": "?"},),
        sharing=Sharing(prompt=world.prompt, completions=tuple(c.token_ids for c in completions)),
        completions=tuple(completions),
        weight=weight,
    )


def multisets(count: int, size: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Each multiset of `size` of `count` things, and in how many orders it can be drawn."""
    for chosen in itertools.combinations_with_replacement(range(count), size):
        orders = math.factorial(size)
        for one in set(chosen):
            orders //= math.factorial(chosen.count(one))
        yield chosen, orders


def enumerating(world: World, model: TableLM) -> Any:
    """All groups of G completions; weighted sums over them, divided by their number, are expectations over π."""

    def sample(prompts: Sequence[Any], *, per_prompt: int, stream: str, temperature: float = 1.0) -> list[Group]:
        law = world.logp(model.logits).exp()
        found = list(multisets(len(world.completions), per_prompt))
        return [
            group_of(
                world,
                model,
                chosen,
                weight=len(found) * orders * float(law[list(chosen)].prod()),
                name=f"p{number}",
            )
            for number, (chosen, orders) in enumerate(found)
        ]

    return sample


def groups_in(world: World, per_prompt: int) -> int:
    return math.comb(len(world.completions) + per_prompt - 1, per_prompt)


def drawing(world: World, model: TableLM, *, seed: int = 0) -> Any:
    """Real samples."""
    generator = torch.Generator().manual_seed(seed)

    def sample(prompts: Sequence[Any], *, per_prompt: int, stream: str, temperature: float = 1.0) -> list[Group]:
        law = world.logp(model.logits).exp()
        drawn = torch.multinomial(law, len(prompts) * per_prompt, replacement=True, generator=generator).tolist()
        return [
            group_of(world, model, drawn[n * per_prompt : (n + 1) * per_prompt], weight=1.0, name=f"p{n}")
            for n in range(len(prompts))
        ]

    return sample


def rationing(world: World, model: TableLM) -> Any:
    """Each completion as often as the law says, rounded: samples (at one quantile each) almost without noise."""

    def sample(prompts: Sequence[Any], *, per_prompt: int, stream: str, temperature: float = 1.0) -> list[Group]:
        count = len(prompts) * per_prompt
        places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        drawn = torch.searchsorted(world.logp(model.logits).exp().cumsum(0), places)
        # Neighbours are alike, and a group should not be.
        mixed = drawn[torch.randperm(count, generator=torch.Generator().manual_seed(count))].tolist()
        return [
            group_of(world, model, mixed[n * per_prompt : (n + 1) * per_prompt], weight=1.0, name=f"p{n}")
            for n in range(len(prompts))
        ]

    return sample


def known_scorer(world: World) -> Any:
    place = {ids: number for number, ids in enumerate(world.completions)}

    def score(groups: Sequence[Group]) -> Tensor:
        return torch.stack([world.scores[place[c.token_ids]] for group in groups for c in group.completions])

    return score


def known_reference(world: World) -> Any:
    """log π_ref of completions, as a loss asks for it."""
    values = dict(zip(world.completions, world.logp(world.reference).tolist(), strict=True))

    def lookup(groups: Sequence[Sharing]) -> Tensor:
        return torch.tensor([values[ids] for group in groups for ids in group.completions], dtype=torch.float64)

    return SimpleNamespace(lookup=lookup)


# --- pairs ------------------------------------------------------------------------------------------------------------


def pair_of(world: World, first: int, second: int, *, q: float, weight: float = 1.0, name: str) -> Pair:
    """A pair in the order that it is given; q of the first."""
    sides = (first, second)
    return Pair(
        id=name,
        group=name,
        sharing=Sharing(prompt=world.prompt, completions=tuple(world.completions[side] for side in sides)),
        q=q,
        weight=weight,
        prompt=[{"role": "user", "content": "?"}],
        texts=("a", "b"),
        finishes=tuple("end" if world.finished[side] else "length" for side in sides),
    )


def all_pairs(world: World, share: Callable[[float], float] = lambda q: q) -> list[Pair]:
    """Every pair once, with the Bradley–Terry share of its counted scores as q (or what `share` makes of that)."""
    s = world.counted
    return [
        pair_of(world, a, b, q=share(float(torch.sigmoid(s[a] - s[b]))), name=f"{a:02d}-{b:02d}")
        for a, b in itertools.combinations(range(len(world.completions)), 2)
    ]


# --- runs -------------------------------------------------------------------------------------------------------------


class Watched(torch.optim.SGD):
    """SGD that keeps the gradients of its latest step."""

    latest: list[Tensor]

    def step(self, closure: Any = None) -> Any:
        self.latest = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
        return super().step(closure)


class Natural(Watched):
    """Steps along the natural gradient of a table: the gradient in the logit of a at state s over d(s) π(a|s)."""

    world: World
    model: TableLM
    unit: Callable[[], float] = staticmethod(lambda: 1.0)
    """What a step is multiplied by: 1/β of the moment makes it the step to π* itself."""

    def step(self, closure: Any = None) -> Any:
        self.latest = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]
        weight = self.model.head.weight
        visits = self.world.visits(self.model.logits)[:, None] * self.model.logits.softmax(1)  # [S, V]
        assert weight.grad is not None
        weight.grad *= self.unit() / visits.T
        return torch.optim.SGD.step(self, closure)


@dataclass(kw_only=True, slots=True)
class Bench:
    """Where runs are made: a folder each, one tokenizer for all (no test reads text)."""

    root: Path
    text: Text
    number: itertools.count[int] = field(default_factory=itertools.count)

    def session(
        self,
        method: str,
        model: TableLM,
        items: Sequence[Any],
        *,
        size: int,
        inner: int = 1,
        rate: float = 1.0,
        momentum: float = 0.9,
        floor: float = 1.0,
        reference: TableLM | None = None,
        extra: Mapping[str, nn.Parameter] | None = None,
        critic: TableLM | None = None,
        critic_rate: float = 0.5,
        natural: World | None = None,
        **changes: Any,
    ) -> Run[Any]:
        """A run before its first step, with SGD and no limit on the gradient."""
        raw = merge(
            default_config(method),
            {
                "models": {"base": "table"},
                "data": {"snapshot": "none"},
                "adapter": None,
                "optim": {
                    "learning_rate": rate,
                    "warmup_share": 0.0,
                    "floor_share": floor,
                    "clip_norm": 1e9,
                },
                "eval": {"prompts": 0, "every": 10**6},
                "checkpoint": {"every": 10**6},
            },
        )
        if method in ("ppo", "rloo", "grpo", "online_dpo"):
            raw["models"]["rewards"] = ["known"]
        if "kl" in raw:
            raw["kl"]["budget"] = None
        config: Any = parse_config(merge(raw, changes))
        out = self.root / f"run-{next(self.number)}"
        out.mkdir(parents=True)
        opening = Opening(
            out=out,
            supervision=Supervision(),
            status=Status(out, writes=False),
            manifest=Manifest(kind="preferences", content_hash="", files=(), label_policy={}, split={}, frozen_hash=""),
            device=torch.device("cpu"),
            saved=None,
            base=out,
            text=self.text,
            lineage=Lineage(snapshot="", models={"base": ""}),
        )
        extra = dict(extra or {})
        parameters = [*model.parameters(), *extra.values()]
        optimizer = Watched(parameters, lr=rate, momentum=momentum, nesterov=momentum > 0)
        if natural is not None:
            optimizer = Natural(parameters, lr=rate, momentum=momentum, nesterov=momentum > 0)
            optimizer.world, optimizer.model = natural, model
        trained = {"policy": Trained(model=model, optimizer=optimizer, optim=config.optim, extra=extra)}
        if critic is not None:
            own = Watched(critic.parameters(), lr=critic_rate, momentum=momentum, nesterov=momentum > 0)
            slow = type(config.optim)(learning_rate=critic_rate, warmup_share=0.0, floor_share=floor, clip_norm=1e9)
            trained["critic"] = Trained(model=critic, optimizer=own, optim=slow)
        return starting.start_run(
            config,
            opening,
            kind="reward" if method == "reward" else "policy",
            trained=trained,
            items=items,
            size=size,
            inner=inner,
            reference=reference,
        )


def make_bench(root: Path) -> Bench:
    return Bench(root=root / "runs", text=load_text(tiny_model(root / "tiny")))


def gradient_of(session: Run[Any], role: str = "policy") -> Tensor:
    """That of the latest step in the first parameter, as [S, V] for a policy."""
    optimizer = session.trained[role].optimizer
    assert isinstance(optimizer, Watched)
    return optimizer.latest[0].T


def in_padded_rows(model: TableLM) -> TableLM:
    model.set_attn_implementation(PADDED)
    return model
