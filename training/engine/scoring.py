"""Scores of completions by reward models, s(x, y) = w·h at the last completion token, and the `score` command.

Scores are log-odds, each less the mean that its model stored in `winnow.json`. Every model reads with its own template
and end token; token ids are taken over only from a policy with the same tokenizer.

M reward models; N rows of a pack; K completions; D hidden size.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from training.engine import models, ranks
from training.engine.config import ScoreConfig
from training.engine.errors import Diverged, ModelError
from training.engine.files import Status, directory_hash, sha256_of_file, write_json
from training.engine.models import score_head
from training.engine.packing import EXACT, Pack, Sharing, build_pack, hidden_states, plan_packs, read_in_packs_if_exact
from training.engine.pairs import prompt_of
from training.engine.scorefiles import ScoreLine, ScoreOutput, open_output, read_completions, write_features
from training.engine.sections import Combine, Dtype
from training.engine.supervision import StopRun, Supervision
from training.engine.text import Text, load_text

WINDOW = 16
"""Packs that are planned together: longest first inside them wastes little, and lines still come out in order."""


def scores(model: Any, pack: Pack) -> Tensor:
    """s of every completion of a pack, [K] fp32: read at its last token, finished or not.

    An empty completion is read at the last token of its prompt.
    """
    return read_scores(model, last_states(model, pack))


def last_states(model: Any, pack: Pack) -> Tensor:
    """The last layer's state at the last token of every completion, [K, D]."""
    return hidden_states(model, pack)[pack.last]


def read_scores(model: Any, states: Tensor) -> Tensor:
    """The reward head on states [K, D], in fp32 whatever they were computed in (fp64 for fp64 states): [K]."""
    wide = torch.float64 if states.dtype is torch.float64 else torch.float32
    with torch.autocast(states.device.type, enabled=False):
        result: Tensor = (states.to(wide) @ score_head(model).weight.to(wide).T)[:, 0]
    return result


# --- reward models ----------------------------------------------------------------------------------------------------


class Written(Protocol):
    """A completion. `token_ids` may be empty where only the text is known."""

    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def finish(self) -> str: ...


class Answered(Protocol):
    """A prompt, as the reward model is to see it, with its completions."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> Sequence[Mapping[str, str]]: ...
    @property
    def completions(self) -> Sequence[Written]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenCompletion:
    text: str
    finish: str = "end"
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """A prompt and completions from a file; sampled groups are scored as they are."""

    id: str
    prompt: Sequence[Mapping[str, str]]
    completions: Sequence[GivenCompletion]


@dataclass(kw_only=True, slots=True)
class RewardModel:
    """One loaded reward model. `mean` is what its training stored; it is subtracted from every score."""

    directory: Path
    model: Any
    text: Text
    mean: float
    sha256: str
    checked: int = 0
    """Tokens of the longest prompt and completion that it is known of if the model can read them in packs."""

    def sharing(self, item: Answered, *, own: Text | None) -> Sharing:
        """The ids of an item for this model; `own` is the policy's text that its token ids come from."""
        same = own is not None and own.tokenizer_sha256 == self.text.tokenizer_sha256
        stop_ids = own.stop_ids if own is not None and same else None
        return Sharing(
            prompt=prompt_of(item.prompt, text=self.text, id=item.id),
            completions=tuple(self._completion_ids(completion, stop_ids) for completion in item.completions),
        )

    def _completion_ids(self, completion: Written, stop_ids: frozenset[int] | None) -> tuple[int, ...]:
        """Sampled ids with this model's end token in the place of the policy's; else the text, tokenised."""
        ids, finished = completion.token_ids, completion.finish == "end"
        if stop_ids is not None and ids and (not finished or ids[-1] in stop_ids):  # a stop string left ids behind it
            return (*ids[:-1], self.text.end_id) if finished else tuple(ids)
        return tuple(self.text.completion_ids(completion.text, finished=finished))


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardModels:
    """Reward models that score together. Calling it gives one score a completion, `score` those of every member.

    `own`: text of the policy whose token ids the items bring; None: they are tokenised from their texts.
    """

    members: tuple[RewardModel, ...]
    combine: Combine = Combine.MEAN
    own: Text | None = None
    dtype: Dtype = Dtype.FP32
    micro_tokens: int = 1024
    between: Callable[[], None] | None = None
    """Called before each pack; may raise to give up."""

    def __call__(self, items: Sequence[Answered]) -> Tensor:
        """Combined scores of all completions, item after item: [K] fp64 on the host. Ranks of a run share the work."""

        def score(own: list[Answered]) -> list[Tensor]:
            sizes = [len(item.completions) for item in own]
            return list(torch.split(combined(self.score(own), self.combine), sizes)) if own else []

        return torch.cat([torch.zeros(0, dtype=torch.float64), *ranks.share_out(items, score)])

    def score(self, items: Sequence[Answered]) -> Tensor:
        """Every member's scores of all completions, item after item: [M, K] fp64 on the host.

        Raises:
            Diverged: a score is not finite.
            ModelError: a prompt with a completion is longer than a member's context.
        """
        return torch.stack([self._score(member, items) for member in self.members])

    def _score(self, member: RewardModel, items: Sequence[Answered]) -> Tensor:
        groups = [member.sharing(item, own=self.own) for item in items]
        for item, group in zip(items, groups, strict=True):
            check_context(member, group, name=item.id)
        with torch.no_grad():
            states = states_of(member, groups, dtype=self.dtype, micro_tokens=self.micro_tokens, between=self.between)
            found = read_scores(member.model, states).double().cpu() - member.mean
        if not bool(torch.isfinite(found).all()):
            raise _not_finite([item.id for item in items for _ in item.completions], found)
        return found


def combined(found: Tensor, combine: Combine) -> Tensor:
    """Scores [M, K] as one score a completion [K]: their mean, or the least of them."""
    return found.mean(dim=0) if combine is Combine.MEAN else found.min(dim=0).values


def reward_roles(rewards: Sequence[str], held_out: Sequence[str] = ()) -> dict[str, str]:
    """Directories of a run's frozen reward models by role, whose hashes its result names."""
    return {
        **{f"reward_{number}": path for number, path in enumerate(rewards)},
        **{f"held_out_{number}": path for number, path in enumerate(held_out)},
    }


def load_reward_models(
    directories: Sequence[str],
    *,
    device: str,
    combine: Combine = Combine.MEAN,
    own: Text | None = None,
    dtype: Dtype = Dtype.FP32,
    micro_tokens: int = 1024,
    between: Callable[[], None] | None = None,
) -> RewardModels:
    """Load trained reward models in fp32; a policy directory is refused, for its head would be a random one.

    Raises:
        ModelError: names the directory.
    """
    return RewardModels(
        members=tuple(load_member(Path(directory), device=device) for directory in directories),
        combine=combine,
        own=own,
        dtype=dtype,
        micro_tokens=micro_tokens,
        between=between,
    )


def load_member(directory: Path, *, device: str) -> RewardModel:
    models.check_directory(directory)
    if not models.is_reward_model(directory):
        raise ModelError(f"{directory}: is a policy, not a reward model")
    return RewardModel(
        directory=directory,
        model=models.load_reward_model(directory, seed=0, device=device),
        text=load_text(directory),
        mean=stored_mean(directory),
        sha256=directory_hash(directory),
    )


def stored_mean(directory: Path) -> float:
    """The mean that every user of a reward model subtracts; 0 for a model from elsewhere, or one never evaluated.

    Raises:
        ModelError: it is no finite number.
    """
    path = directory / "winnow.json"
    stored = models.read_json(path).get("reward") if path.is_file() else None
    if stored is None:
        return 0.0
    mean = stored.get("mean") if isinstance(stored, dict) else None
    if not isinstance(mean, (int, float)) or not math.isfinite(mean):
        raise ModelError(f"{path}: reward.mean must be a finite number, got {mean!r}")
    return float(mean)


def check_context(member: RewardModel, group: Sharing, *, name: str) -> None:
    length, context = _longest(group), models.context_tokens(member.model)
    if length > context:
        raise ModelError(f"{name} has {length} tokens with its completion, {member.directory} has {context} positions")


def _longest(group: Sharing) -> int:
    return len(group.prompt) + max(map(len, group.completions), default=0)


def states_of(
    member: RewardModel,
    groups: Sequence[Sharing],
    *,
    dtype: Dtype,
    micro_tokens: int,
    between: Callable[[], None] | None = None,
) -> Tensor:
    """The last layer's state at the last token of every completion, group after group: [K, D] fp32 on the device."""
    device = score_head(member.model).weight.device
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + len(group.completions))
    found = torch.zeros(starts[-1], score_head(member.model).in_features, device=device)
    asked = [number for number, group in enumerate(groups) if group.completions]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is Dtype.BF16):
        longest = max((_longest(groups[number]) for number in asked), default=0)
        if longest > member.checked:  # a sliding window shows in long texts alone
            by_length = sorted(asked, key=lambda number: _longest(groups[number]))
            some = [groups[number] for number in dict.fromkeys([*by_length[:2], by_length[-1]])]
            read_in_packs_if_exact(member.model, some, tolerance=EXACT[dtype])
            member.checked = longest
        for places in plan_packs([groups[number].positions for number in asked], micro_tokens=micro_tokens):
            if between is not None:
                between()
            numbers = [asked[place] for place in places]
            states = last_states(member.model, build_pack([groups[number] for number in numbers], device=device))
            rows = [row for number in numbers for row in range(starts[number], starts[number + 1])]
            found[rows] = states.float()
    return found


def _not_finite(ids: Sequence[str], found: Tensor) -> Diverged:
    bad = [(name, value) for name, value in zip(ids, found.tolist(), strict=True) if not math.isfinite(value)]
    return Diverged(metric="rollout/score", value=bad[0][1], step=0, examples=[name for name, _ in bad])


# --- the command ------------------------------------------------------------------------------------------------------


def run(config: ScoreConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> dict[str, Any]:
    """Write OUT/scores.jsonl in the order of the completions, and OUT/result.json last.

    A line has the completion's prompt_id and index (and policy, where it has one), `score` less the model's stored
    mean, `score_raw`, `tokens` and `finish`. Completions too long for the model are left out and listed in the result.
    With `features`, row i of `features.safetensors` is the state behind line i, and `features.jsonl` is its index.
    Lines of `resume` (or of a former attempt in OUT) by the same model on the same files are kept, a broken last one
    is cut off. A stop is heeded between packs; a resumed attempt scores again, alike, what was in work.

    Raises:
        SnapshotError: a line of the prompts or completions, by file and line.
    """
    status = Status(out)
    status.update("loading")
    member = load_member(Path(config.models.reward), device="cuda" if torch.cuda.is_available() else "cpu")
    prompts, completions = Path(config.data.prompts), Path(config.data.completions)
    found = list(read_completions(prompts, completions, text=member.text))
    context, width = models.context_tokens(member.model), score_head(member.model).in_features
    fitting = [line for line in found if line.length <= context]
    output = open_output(
        out,
        former=resume or out / "scores.jsonl",
        identity={
            "reward": member.sha256,
            "prompts": sha256_of_file(prompts),
            "completions": sha256_of_file(completions),
            "dtype": config.precision.dtype.value,
        },
        lines=fitting,
        width=width,
        features=config.features,
    )

    def between() -> None:
        if supervision.stop_requested:
            raise StopRun
        done, seconds = output.kept + output.made, time.monotonic() - output.started_at
        eta = seconds / output.made * (len(fitting) - done) if output.made else None
        speed = output.values().get("speed/tokens_per_second")
        status.update("scoring", step=done, steps=len(fitting), tokens_per_second=speed, eta_seconds=eta)

    start = 0
    with contextlib.suppress(StopRun):
        for window in _windows(fitting, micro_tokens=config.memory.micro_tokens):
            there, start = output.kept - start, start + len(window)
            if there < len(window):
                _score_window(config, member, window, output, first=max(there, 0), between=between)
    done = output.kept + output.made
    output.close()
    if config.features and done == len(fitting):
        write_features(out, fitting, width=width)
    result: dict[str, Any] = {
        "status": "done" if done == len(fitting) else "stopped",
        "reason": None if done == len(fitting) else "a stop was asked for",
        "step": done,
        "checkpoints": {"best": None, "last": None},
        "metrics": output.values(),
        "alarms": [],
        "lineage": {"snapshot": None, "models": {"reward": member.sha256}},
        "completions": done,
        "skipped": [{**line.key, "reason": "too_long"} for line in found if line.length > context],
    }
    status.update(result["status"], step=done, steps=len(fitting))
    write_json(out / "result.json", result)
    return result


def _windows(lines: Sequence[ScoreLine], *, micro_tokens: int) -> Iterator[list[ScoreLine]]:
    """Runs of lines with about `WINDOW` packs' positions; always the same, so a resumed attempt packs alike."""
    window: list[ScoreLine] = []
    positions = 0
    for line in lines:
        window.append(line)
        positions += line.sharing.positions
        if positions >= WINDOW * micro_tokens:
            yield window
            window, positions = [], 0
    if window:
        yield window


def _score_window(
    config: ScoreConfig,
    member: RewardModel,
    window: Sequence[ScoreLine],
    output: ScoreOutput,
    *,
    first: int,
    between: Callable[[], None],
) -> None:
    """Completions of one prompt share it; lines are written from number `first` on, in the order of the input."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, line in enumerate(window):
        places.setdefault(line.sharing.prompt, []).append(place)
    groups = [
        Sharing(prompt=prompt, completions=tuple(window[place].sharing.completions[0] for place in found))
        for prompt, found in places.items()
    ]
    with torch.no_grad():
        states = states_of(
            member,
            groups,
            dtype=config.precision.dtype,
            micro_tokens=config.memory.micro_tokens,
            between=between,
        )
        raw = read_scores(member.model, states).double().cpu()
    order = torch.tensor([place for found in places.values() for place in found]).argsort()
    raw, states = raw[order], states[order.to(states.device)]
    if not bool(torch.isfinite(raw).all()):
        raise _not_finite([line.key["prompt_id"] for line in window], raw)
    for line, score, state in list(zip(window, raw.tolist(), states, strict=True))[first:]:
        output.write(line, score, state, mean=member.mean)
