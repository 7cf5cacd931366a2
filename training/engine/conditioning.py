"""The direct baselines of AlpacaFarm that are SFT on other rows: binary FeedME and binary reward conditioning.

**FeedME** is SFT on the chosen completion of each comparison; ties are left out. **Binary conditioning** is SFT on
both, each under a control that says which it was; the policy is sampled under the good one. A control is text in a
system turn, so vocabulary, reference and reward model stay as they are. It stands in `winnow.json` of the policy, and
every sampler applies it. Source: Dubois et al. 2023 (AlpacaFarm), section 3.2; the loss is that of `sft.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from training.engine import sft, starting
from training.engine.config import BinaryConditioningConfig, FeedMeConfig
from training.engine.errors import ModelError
from training.engine.examples import PromptItem, load_chosen, load_conditioned, with_control
from training.engine.packing import Sharing
from training.engine.supervision import Supervision
from training.engine.text import Text


def run(
    config: FeedMeConfig | BinaryConditioningConfig, out: Path, *, resume: Path | None, supervision: Supervision
) -> None:
    """Train, evaluate and write everything to `out`; go on from `resume`, or from `out`'s own newest checkpoint.

    Raises:
        SnapshotError, ModelError, Diverged; StopRun when a stop comes before the first step.
    """
    if isinstance(config, FeedMeConfig):
        _run_feedme(config, out, resume=resume, supervision=supervision)
    else:
        _run_binary(config, out, resume=resume, supervision=supervision)


def _run_feedme(config: FeedMeConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=("preferences",))
    train_part, validation, test = (
        load_chosen(part, data=config.data, text=opening.text) for part in ("train", "validation", "test")
    )
    sft.check_scored_turns(train_part.examples, opening.text)
    sft.train_on(
        config,
        opening,
        train_part=train_part,
        validation=validation.examples,
        test=test.examples,
        facts={"data/ties": float(train_part.ties)},
    )


def _run_binary(config: BinaryConditioningConfig, out: Path, *, resume: Path | None, supervision: Supervision) -> None:
    opening = starting.open_run(config, out, resume=resume, supervision=supervision, kinds=("preferences",))
    good, bad, text = config.binary_conditioning.good, config.binary_conditioning.bad, opening.text
    check_controls(text, (good, bad))
    train_part, validation, test = (
        load_conditioned(part, data=config.data, good=good, bad=bad, text=text)
        for part in ("train", "validation", "test")
    )
    sft.check_scored_turns(train_part.examples, text)
    part = "validation" if validation.examples else "train"
    chosen = load_chosen(part, data=replace(config.data, allow_drop=True), text=text).examples
    plain = sft.prompts_of(chosen, text=text, count=config.eval.prompts)
    controlled = [
        PromptItem(id=p.id, group=p.group, prompt=messages, sharing=prompt_of(messages, text))
        for p in plain
        for messages in [with_control(p.prompt, good)]
    ]
    sft.train_on(
        config,
        opening,
        train_part=train_part,
        validation=validation.examples,
        test=test.examples,
        asked=sft.HeldOutPrompts(plain=plain, controlled=controlled),
        card={"control": good},
        facts={"data/ties": float(train_part.ties)},
    )


def check_controls(text: Text, controls: Sequence[str]) -> None:
    """The template shows every control to the model.

    Raises:
        ModelError: it drops a system turn, or refuses one.
    """
    turns = [{"role": "user", "content": "Name a colour."}]
    for control in controls:
        rendered = text.render(with_control(turns, control))
        if control.strip() not in rendered:
            raise ModelError(f"the chat template leaves out the control {control!r}, it renders {rendered[:200]!r}")


def prompt_of(messages: Sequence[Mapping[str, str]], text: Text) -> Sharing:
    """A prompt to sample, as ids."""
    return Sharing(prompt=tuple(text.prompt_ids(messages)), completions=())
