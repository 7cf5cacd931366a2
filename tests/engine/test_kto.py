from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.engine.engine_runs import error_of, lines_of, places, result_of, run_here, same_numbers
from tests.engine.planted import LABEL_POLICY, SPLIT, planted_config
from training.engine import kto, losses, starting
from training.engine.config import KtoConfig, KtoOptions, parse_config
from training.engine.examples import Rated, load_ratings
from training.engine.loop import Run
from training.engine.metrics import METRICS
from training.engine.packing import Sharing
from training.engine.records import write_snapshot
from training.engine.reference import key_of, open_cache
from training.engine.supervision import Supervision
from training.engine.text import load_text

_ = places


def rated(number: int, prompt: tuple[int, ...], completion: tuple[int, ...], *, desirable: bool = True) -> Rated:
    return Rated(
        id=f"r{number}",
        group=f"g{number}",
        sharing=Sharing(prompt=prompt, completions=(completion,)),
        desirable=desirable,
        weight=1.0,
        prompt=[{"role": "user", "content": "?"}],
        text="",
        finish="end",
    )


def rating(number: int, *, desirable: bool, **changes: Any) -> dict[str, Any]:
    text = "good" if desirable else "bad"
    return {
        "id": f"r{number:03d}",
        "group": f"g{number:03d}",
        "prompt": [{"role": "user", "content": f"What is the name of dog {number}?"}],
        "completion": text + " it is" * (number % 3),
        "desirable": desirable,
        **changes,
    }


def ratings_snapshot(directory: Path, train: list[dict[str, Any]], *, held_out: int = 8) -> Path:
    start = 500
    parts = {
        part: [rating(start + 100 * place + n, desirable=n % 2 == 0) for n in range(held_out)]
        for place, part in enumerate(("validation", "test"))
    }
    lines = {"train": train, **parts}
    write_snapshot(directory, kind="ratings", label_policy=LABEL_POLICY, split=SPLIT, lines=lines)
    return directory


# --- mismatched texts and weights -------------------------------------------------------------------------------------


def test_the_other_completion_is_that_of_the_next_different_prompt_in_a_circle() -> None:
    items = [rated(0, (5,), (10, 2)), rated(1, (5,), (11, 2)), rated(2, (6,), (12, 2)), rated(3, (7,), (13, 2))]
    found = kto.mismatched(items, max_tokens=100)
    assert [other.sharing.prompt for other in found] == [(5,), (5,), (6,), (7,)]
    assert [other.sharing.completions[0][0] for other in found] == [12, 12, 13, 10]


def test_a_mismatched_text_is_never_longer_than_an_example_may_be() -> None:
    items = [rated(0, (5, 5, 5, 5), (10,)), rated(1, (6,), (11, 11, 11, 11)), rated(2, (7,), (12,))]
    found = kto.mismatched(items, max_tokens=5)
    assert [(other.id, other.sharing.completions[0]) for other in found] == [
        ("r0", (12,)),
        ("r1", (12,)),
        ("r2", (10,)),
    ]
    alone = kto.mismatched(items[:2], max_tokens=5)
    assert [other.id for other in alone] == ["r1"]


def test_one_prompt_has_no_mismatched_text() -> None:
    assert kto.mismatched([rated(0, (5,), (10,)), rated(1, (5,), (11,))], max_tokens=100) == []


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, (4 / 2, 4 / 6)),  # 1 of 4 desirable: 4/(2·1) and 4/(2·3)
        ({"desirable_weight": 3.0}, (3.0, 1.0)),
        ({"undesirable_weight": 2.0}, (6.0, 2.0)),
        ({"desirable_weight": 1.0, "undesirable_weight": 1.5}, (1.0, 1.5)),
    ],
)
def test_weights_balance_the_two_kinds(given: dict[str, float], wanted: tuple[float, float]) -> None:
    items = [rated(n, (n + 5,), (9,), desirable=n == 0) for n in range(4)]
    found = kto.class_weights(KtoOptions(**given), items)
    assert (found.desirable, found.undesirable) == pytest.approx(wanted)
    if len(given) < 2:
        assert found.desirable * 1 == pytest.approx(found.undesirable * 3)


def test_one_kind_alone_weighs_one() -> None:
    items = [rated(n, (n + 5,), (9,)) for n in range(4)]
    assert kto.class_weights(KtoOptions(), items) == kto.ClassWeights(desirable=1.0, undesirable=1.0)


# --- loss -------------------------------------------------------------------------------------------------------------


class Made:
    """A run before its first step, its examples and the reference's values."""

    def __init__(self, places: dict[str, Path], out: Path, **overrides: Any) -> None:
        out.mkdir(parents=True, exist_ok=True)
        parsed = parse_config(planted_config("kto", **places, **overrides))
        assert isinstance(parsed, KtoConfig)
        self.config = parsed
        opening = starting.open_run(parsed, out, resume=None, supervision=Supervision(), kinds=("preferences",))
        self.items = load_ratings("train", data=parsed.data, text=opening.text).examples
        model, reference = starting.load_policies(opening, parsed, self.items)
        others = kto.mismatched(self.items, max_tokens=1024)
        self.cache = open_cache(
            parsed, opening, model, reference, [[item.sharing for item in part] for part in (self.items, others)]
        )
        self.session: Run[Rated] = starting.start_run(
            parsed,
            opening,
            kind="policy",
            trained={"policy": starting.make_trained(model, parsed.optim)},
            reference=reference,
            items=self.items,
            size=len(self.items),
        )


def moved(made: Made) -> None:
    """A policy that is not its reference: adapters that do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.session.trained["policy"].parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def test_loss_and_gradient_do_not_depend_on_the_split(places: dict[str, Path], tmp_path: Path) -> None:
    """z0 is a number of the whole batch: were it one of a micro-batch, each split would have a loss of its own."""
    found = []
    for micro_tokens in (1, 128, 4096):
        made = Made(places, tmp_path / str(micro_tokens), memory={"micro_tokens": micro_tokens})
        moved(made)
        z0 = kto.reference_point(made.session, made.items, cache=made.cache, max_tokens=1024)
        batch = kto.forward(
            made.session,
            made.config.kto,
            made.items,
            cache=made.cache,
            weights=kto.ClassWeights(desirable=2.0, undesirable=0.5),
            reference_point=z0,
            train=True,
        )
        gradients = [p.grad.flatten() for p in made.session.trained["policy"].parameters if p.grad is not None]
        found.append((float(z0), float((batch.losses * batch.weights).sum()), torch.cat(gradients)))
    first = found[0]
    assert first[0] > 0
    for other in found[1:]:
        assert other[0] == pytest.approx(first[0], rel=1e-5)
        assert other[1] == pytest.approx(first[1], rel=1e-6)
        assert float((other[2] - first[2]).abs().max()) < 1e-5 * float(first[2].abs().max())


def test_the_reference_point_is_the_mean_over_texts_read_one_by_one(places: dict[str, Path], tmp_path: Path) -> None:
    made = Made(places, tmp_path / "out")
    moved(made)
    items = made.items[:6]
    expected = []
    for place, item in enumerate(items):
        other = next(x for x in (*items[place + 1 :], *items[:place]) if x.sharing.prompt != item.sharing.prompt)
        (ids,) = other.sharing.completions
        text = torch.tensor([[*item.sharing.prompt, *ids]])
        ratio = 0.0
        for sign, model in ((1, made.session.model), (-1, made.session.model.get_base_model())):
            with torch.no_grad():
                if sign < 0:
                    with made.session.model.disable_adapter():
                        logits = model(input_ids=text).logits[0]
                else:
                    logits = model(input_ids=text).logits[0]
            logp = logits.double().log_softmax(-1)
            start = len(item.sharing.prompt)
            ratio += sign * sum(float(logp[start + t - 1, token]) for t, token in enumerate(ids))
        expected.append(ratio)

    # Completions that a batch of six mixes are not all those that the whole part mixed.
    class Cache:
        def lookup(self, groups: Any) -> Tensor:
            from training.engine.logprobs import completion_logprobs
            from training.engine.packing import build_pack
            from training.engine.rollouts import as_reference

            with torch.no_grad(), as_reference(made.session.model, None) as frozen:
                return completion_logprobs(frozen, build_pack(groups, device=torch.device("cpu")))

    found = kto.reference_point(made.session, items, cache=Cache(), max_tokens=1024)
    assert float(found) == pytest.approx(max(0.0, sum(expected) / len(expected)), abs=1e-4)
    assert not found.requires_grad


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [True, False], ids=["LoRA", "all weights"])
def test_kto_starts_at_a_half_and_learns_from_pairs(adapter: bool, places: dict[str, Path], tmp_path: Path) -> None:
    changes = {} if adapter else {"adapter": None}
    assert run_here(planted_config("kto", **places, batch={"epochs": 8}, **changes), tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    first, last = lines[0], lines[-1]
    # 21 of 24 pairs are no ties, so both kinds weigh 1 and the loss is exactly ½.
    assert (first["data/examples"], first["data/desirable"], first["data/ties"]) == (42, 21, 3)
    assert (first["kto/desirable_weight"], first["kto/undesirable_weight"]) == (1, 1)
    assert first["eval/loss"] == pytest.approx(0.5, abs=1e-9)
    assert first["rollout/kl"] == 0
    assert lines[1]["train/loss"] == pytest.approx(0.5, abs=1e-9)
    assert lines[1]["kto/reference_point"] == 0
    assert last["test/accuracy"] > 0.9
    assert last["eval/loss"] < 0.48
    assert last["policy/logp_chosen_change"] > last["policy/logp_rejected_change"]
    assert {name for line in lines for name in line if "/" in name} <= METRICS.keys()
    samples = lines_of(tmp_path / "out" / "samples.jsonl")
    assert {"reward", "kl"} <= samples[-1].keys()


def test_kto_learns_from_ratings_with_their_weights(places: dict[str, Path], tmp_path: Path) -> None:
    train = [rating(n, desirable=n % 4 == 0, weight=2.0 if n % 4 == 0 else 1.0) for n in range(24)]
    train[1]["finish"] = "length"
    train[2] |= {"completion": "", "finish": "length"}
    train[3]["completion"] = "b"
    snapshot = ratings_snapshot(tmp_path / "snapshot", train)
    config = planted_config("kto", base=places["base"], snapshot=snapshot)
    assert run_here(config, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    # 6 desirable, 18 undesirable: w_D·6 = w_U·18 with a mean of 1.
    assert lines[0]["kto/desirable_weight"] == pytest.approx(24 / 12)
    assert lines[0]["kto/undesirable_weight"] == pytest.approx(24 / 36)
    assert lines[-1]["test/accuracy"] == 1.0


def test_one_kind_of_example_is_enough(places: dict[str, Path], tmp_path: Path) -> None:
    for name, desirable in (("good", True), ("bad", False)):
        snapshot = ratings_snapshot(tmp_path / name, [rating(n, desirable=desirable) for n in range(16)], held_out=0)
        config = planted_config("kto", base=places["base"], snapshot=snapshot)
        assert run_here(config, tmp_path / f"{name}-out") == 0
        last = lines_of(tmp_path / f"{name}-out" / "metrics.jsonl")[-1]
        assert ("policy/logp_chosen_change" in last) == desirable
        assert ("policy/logp_rejected_change" in last) != desirable


def test_a_batch_with_too_few_prompts_is_refused_by_name_with_a_size_that_would_do(
    places: dict[str, Path], tmp_path: Path
) -> None:
    # 42 examples: 42 = 5·8 + 2 leaves a last batch of two.
    config = planted_config("kto", **places, batch={"examples": 8})
    assert run_here(config, tmp_path / "out") == 2
    message = error_of(tmp_path / "out")["message"]
    assert message.startswith("batch.examples = 8 leaves batch 6")
    advised = int(message.rsplit("; ", 1)[1].split(" would do")[0])
    assert run_here({**config, "batch": {"examples": advised, "epochs": 1}}, tmp_path / "advised") == 0


def test_a_single_prompt_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "What?"}]
    train = [rating(n, desirable=n % 2 == 0, prompt=prompt) for n in range(16)]
    snapshot = ratings_snapshot(tmp_path / "snapshot", train)
    assert run_here(planted_config("kto", base=places["base"], snapshot=snapshot), tmp_path / "out") == 2
    message = error_of(tmp_path / "out")["message"]
    assert "1 different prompts" in message
    assert "would do" not in message


def test_the_cache_holds_mismatched_texts_too_and_is_shared(places: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    config = planted_config("kto", **places, memory={"reference_cache": str(cache)}, batch={"epochs": 2})
    assert run_here(config, tmp_path / "a") == 0
    (path,) = cache.iterdir()
    before = path.read_bytes()
    keys = {json.loads(line)["key"] for line in before.splitlines()}
    parsed = parse_config(config)
    assert isinstance(parsed, KtoConfig)
    text = load_text(places["base"])
    parts = [load_ratings(part, data=parsed.data, text=text).examples for part in ("train", "validation", "test")]
    batches = [*kto.planned_batches(parsed, parts[0]), *(kto.mixed(part, seed=parsed.seed) for part in parts[1:])]
    assert len(batches) == 2 * 3 + 2
    seen = [item for batch in batches for item in (*batch, *kto.mismatched(batch, max_tokens=1024))]
    assert keys == {key_of(item.sharing.prompt, item.sharing.completions[0]) for item in seen}
    assert len(keys) > len({item.id for item in seen})
    assert run_here(config, tmp_path / "b") == 0
    assert path.read_bytes() == before
    assert same_numbers(tmp_path / "a" / "metrics.jsonl", tmp_path / "b" / "metrics.jsonl")


def test_the_split_into_micro_batches_changes_nothing_in_a_run(places: dict[str, Path], tmp_path: Path) -> None:
    saved = []
    for micro_tokens in (64, 4096):
        out = tmp_path / str(micro_tokens)
        config = planted_config("kto", **places, batch={"epochs": 1}, optim={"learning_rate": 1e-3, "eps": 1e-3})
        assert run_here({**config, "memory": {"micro_tokens": micro_tokens}}, out) == 0
        folder = out / result_of(out)["checkpoints"]["last"]["path"]
        saved.append(load_file(folder / "adapter" / "adapter_model.safetensors"))
    for name, one in saved[0].items():
        assert torch.allclose(one, saved[1][name], rtol=1e-4, atol=1e-6), name


def test_a_loss_that_is_not_a_half_is_a_defect(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = losses.kto
    monkeypatch.setattr(losses, "kto", lambda *args, **kwargs: real(*args, **kwargs) * 1.001)
    assert run_here(planted_config("kto", **places), tmp_path / "out") == 1
    assert "off ½" in error_of(tmp_path / "out")["message"]


@pytest.mark.parametrize(("options", "key"), [({"beta": 0}, "kto.beta"), ({"desirable_weight": 0}, "kto.desirable")])
def test_what_cannot_be_is_refused_by_name(
    options: dict[str, Any], key: str, places: dict[str, Path], tmp_path: Path
) -> None:
    assert run_here(planted_config("kto", **places, kto=options), tmp_path / "out") == 2
    assert key in error_of(tmp_path / "out")["message"]
