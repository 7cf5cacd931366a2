"""What DPO did to pairs of completions that look alike, and to pairs that do not: drawn, measured, trained on, read.

Two kinds of pairs: answers of one word to short prompts, and short pairs of the shared preferences. The engine's own
program measures their CHES with the base model; a run trains on one draw of one kind.

A word is a token and the end token. Without the latter the CHES of every such pair is 0, for both words are foretold
from the prompt's one state; what decides there is the head (Razin et al. 2024, Theorem 1). So each word pair has a
second figure, ⟨W̄ − W_w, W_w − W_l⟩, W̄ the mean row of the head under the policy: what remains of that theorem for a
head that is not trained, as under an adapter.

B pairs; V words; D hidden size.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.loop.experiment import Lab
from benchmarks.loop.steps import for_each
from benchmarks.loop.world import read_lines
from training.engine import models
from training.engine.files import read_json
from training.engine.logprobs import sum_by_completion, target_logprobs
from training.engine.models import lm_head_weight
from training.engine.packing import build_pack, hidden_states, plan_packs, use_packed_attention
from training.engine.pairs import Pair, load_part
from training.engine.records import canonical_json
from training.engine.sections import DataConfig, Labels
from training.engine.text import load_text

CPU = torch.device("cpu")
MICRO_TOKENS = 1024
WORDS, NATURAL = "words", "natural"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """What one run trains on, and with which remedy.

    Attributes:
        tenth: "top", "bottom", or "any", a draw of all. options: of `dpo`, over the common ones.
    """

    key: str
    label: str
    kind: str
    tenth: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """What training did to one pair, nats: changes of log π of both completions.

    Attributes:
        prompt: its turns as text, by which intervals are clustered: a seed's groups have names of their own.
        trained: it was among those that the run kept.
        gains: change of the probability of each word in the place of the first one, [V]; None where not asked for.
    """

    id: str
    prompt: str
    chosen: float
    rejected: float
    trained: bool = True
    gains: Tensor | None = None

    @property
    def margin(self) -> float:
        return self.chosen - self.rejected


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A line of a snapshot with the similarity that the engine measured."""

    line: Mapping[str, Any]
    ches: float

    @property
    def id(self) -> str:
        return str(self.line["id"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Every arm under one seed: what it did to its pairs.

    Attributes:
        foretold: by the id of a pair, its CHES and, of a pair of words, the figure of the head.
    """

    seed: int
    moved: Mapping[str, Sequence[Moved]]
    foretold: Mapping[str, tuple[float, float | None]]


ARMS = (
    Arm(key="words_top", label="Words, top tenth", kind=WORDS, tenth="top", options={}),
    Arm(key="words_bottom", label="Words, bottom tenth", kind=WORDS, tenth="bottom", options={}),
    Arm(key="words_any", label="Words, any", kind=WORDS, tenth="any", options={}),
    Arm(key="natural_top", label="Natural, top tenth", kind=NATURAL, tenth="top", options={}),
    Arm(key="natural_bottom", label="Natural, bottom tenth", kind=NATURAL, tenth="bottom", options={}),
    Arm(key="natural_any", label="Natural, any", kind=NATURAL, tenth="any", options={}),
    Arm(
        key="natural_fewer",
        label="Natural, any, top left out",
        kind=NATURAL,
        tenth="any",
        options={"drop_similar": None},
    ),
    Arm(key="natural_nll", label="Natural, any, NLL term", kind=NATURAL, tenth="any", options={"nll_weight": None}),
)
"""An option whose value is None here has that of the settings."""


# --- candidates -------------------------------------------------------------------------------------------------------


def word_pairs(lab: Lab) -> list[dict[str, Any]]:
    """Ordered pairs of answers of one token each to short prompts, drawn; words of more tokens are left out."""
    wanted = lab.settings["words"]
    text = load_text(lab.steps.base)
    words = [word for word in wanted["answers"] if len(text.completion_ids(word, finished=False)) == 1]
    draw = random.Random(0)  # noqa: S311 - draws no secret
    prompts = lab.shared.prompts(most_tokens=wanted["prompt_tokens"], count=wanted["prompts"], seed=0)
    return [
        {
            "id": f"{prompt['id']}:{number}",
            "prompt": prompt["prompt"],
            "chosen": chosen,
            "rejected": rejected,
            "split": "train",
        }
        for prompt in prompts
        for number in range(wanted["pairs_per_prompt"])
        for chosen, rejected in [draw.sample(words, 2)]
    ]


def natural_pairs(lab: Lab) -> list[dict[str, Any]]:
    """Short preferences of people and programs, as the shared data has them."""
    wanted = lab.settings["natural"]
    sets = [(str(name), int(most), int(count)) for name, most, count in wanted["preferences"]]
    rows = [row for row in lab.shared.preferences(sets, seed=0) if row["split"] != "test"]
    return [{**row, "split": "train"} for row in rows]


def measured(lab: Lab, kind: str, lines: Sequence[Mapping[str, Any]]) -> list[Candidate]:
    """Every line with its length-normalised CHES by the base model, lowest first."""
    snapshot = lab.steps.snapshot(f"{kind} pairs", lines)
    done = lab.steps.run(
        f"similarity {kind}",
        {
            "method": "evaluate",
            "models": {"policy": str(lab.steps.base)},
            "data": {"snapshot": str(snapshot), "part": "train"},
            "memory": {"micro_tokens": MICRO_TOKENS},
            "evaluate": {"similarity": True},
        },
    )
    ches = {line["id"]: float(line["ches_normalised"]) for line in read_lines(done / "similarity.jsonl")}
    found = [Candidate(line=line, ches=ches[line["id"]]) for line in lines if line["id"] in ches]
    return sorted(found, key=lambda candidate: (candidate.ches, candidate.id))


def tenth_of(candidates: Sequence[Candidate], tenth: str, *, count: int, seed: int) -> list[Candidate]:
    """`count` of the candidates (ordered by CHES), drawn by the seed from the named tenth, or from all.

    Raises:
        ValueError: the tenth has fewer.
    """
    size = len(candidates) // 10
    some = {"top": candidates[-size:], "bottom": candidates[:size], "any": candidates}[tenth]
    if len(some) < count:
        raise ValueError(f"{count} pairs were asked for, the {tenth} tenth has {len(some)}")
    return sorted(random.Random(seed).sample(list(some), count), key=lambda one: one.id)  # noqa: S311


# --- training and what it moved ---------------------------------------------------------------------------------------


def train_and_read(lab: Lab, candidates: Mapping[str, Sequence[Candidate]], seed: int) -> Trial:
    """Every arm trained under a seed, all at one time as far as slots are free, and what each moved."""
    text = load_text(lab.steps.base)

    def trained(arm: Arm) -> tuple[Path, Path]:
        wanted = lab.settings[arm.kind]
        chosen = tenth_of(candidates[arm.kind], arm.tenth, count=wanted["pairs"], seed=seed)
        snapshot = lab.steps.snapshot(f"{arm.kind} {arm.tenth} {seed}", [dict(one.line) for one in chosen])
        sections = sections_of(arm, lab.settings)
        run = lab.steps.train(f"{arm.key} {seed}", "dpo", seed=seed, data={"snapshot": str(snapshot)}, **sections)
        return run, snapshot

    runs = for_each(ARMS, trained)
    moved: dict[str, Sequence[Moved]] = {}
    foretold: dict[str, tuple[float, float | None]] = {}
    ches = {one.id: one.ches for some in candidates.values() for one in some}
    for arm, (directory, snapshot) in zip(ARMS, runs, strict=True):
        pairs = load_part("train", data=DataConfig(snapshot=str(snapshot)), labels=Labels.HARD, text=text).pairs
        moved[arm.key] = moved_by(directory, pairs, base=lab.steps.base, words=arm.kind == WORDS)
        heads = head_figures(pairs, base=lab.steps.base) if arm.kind == WORDS else [None] * len(pairs)
        foretold |= {pair.id: (ches[pair.id], head) for pair, head in zip(pairs, heads, strict=True)}
    return Trial(seed=seed, moved=moved, foretold=foretold)


def sections_of(arm: Arm, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the config of an arm's run, what is its own: nothing is sampled, and one checkpoint is written at the end."""
    wanted, remedies = settings[arm.kind], settings["remedies"]
    options = {name: remedies[name] if value is None else value for name, value in arm.options.items()}
    return {
        "batch": {"pairs": wanted["batch"], "epochs": wanted["epochs"]},
        "optim": {**settings["optim"], "learning_rate": wanted["learning_rate"]},
        "adapter": settings["adapter"],
        "memory": {"micro_tokens": MICRO_TOKENS},
        "eval": {"prompts": 0, "every": 10**6},
        "checkpoint": {"every": 10**6},
        "dpo": {**settings["dpo"], **options},
    }


def moved_by(directory: Path, pairs: Sequence[Pair], *, base: Path, words: bool) -> list[Moved]:
    """What a run did to each pair of its snapshot, those that it left out included.

    Args:
        words: tell too what every word gained in the first one's place.
    """
    result = read_json(directory / "result.json")
    left_out = set(result.get("dropped_similar", ()))
    adapter = directory / result["checkpoints"]["last"]["path"] / "adapter"
    before, first_before = _read(models.load_policy(base), pairs, words=words)
    after, first_after = _read(models.load_adapter(models.load_policy(base), adapter), pairs, words=words)
    changes = (after - before).tolist()
    return [
        Moved(
            id=pair.id,
            prompt=canonical_json(pair.prompt),
            chosen=chosen,
            rejected=rejected,
            trained=pair.id not in left_out,
            gains=first_after[number] - first_before[number] if words else None,
        )
        for number, (pair, (chosen, rejected)) in enumerate(zip(pairs, changes, strict=True))
    ]


@torch.no_grad()
def _read(model: Any, pairs: Sequence[Pair], *, words: bool) -> tuple[Tensor, Tensor]:
    """log π of both completions [B, 2], nats, and with `words` the law of the first word [B, V]."""
    use_packed_attention(model)
    logp = torch.zeros(len(pairs), 2, dtype=torch.float64)
    head = lm_head_weight(model)
    first = torch.zeros(len(pairs), len(head) if words else 0)
    for indices in plan_packs([pair.sharing.positions for pair in pairs], micro_tokens=MICRO_TOKENS):
        pack = build_pack([pairs[index].sharing for index in indices], device=CPU)
        scored = hidden_states(model, pack)[pack.rows]
        logp[indices] = sum_by_completion(target_logprobs(scored, head, pack.targets), pack).view(-1, 2)
        if words:
            starts = (pack.lengths.cumsum(0) - pack.lengths)[::2]  # the state before both completions is one
            first[indices] = (scored[starts] @ head.T).softmax(dim=1)
    return logp, first


@torch.no_grad()
def head_figures(pairs: Sequence[Pair], *, base: Path) -> list[float]:
    """⟨W̄ − W_w, W_w − W_l⟩ of each pair of words, by the base model's head [V, D]."""
    model = models.load_policy(base)
    head = lm_head_weight(model)
    _, law = _read(model, pairs, words=True)
    chosen, rejected = (torch.tensor([pair.sharing.completions[side][0] for pair in pairs]) for side in (0, 1))
    found: list[float] = ((law @ head - head[chosen]) * (head[chosen] - head[rejected])).sum(dim=1).tolist()
    return found
