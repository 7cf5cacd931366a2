"""The experiment on likelihood displacement: what it draws, reads and concludes, on a tiny model and on figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.loop.displacement import EXPERIMENT, claims, findings, gained_over, mean_of, rank_correlation
from benchmarks.loop.experiment import CONFIGS
from benchmarks.loop.moved import ARMS, Candidate, Moved, Trial, head_figures, moved_by, sections_of, tenth_of
from tests.engine.engine_runs import error_of, places, result_of, run_here
from tests.engine.planted import LABEL_POLICY, SPLIT, planted_config, preference
from tests.engine.test_similarity import one_by_one
from tests.engine.tiny import tiny_model
from training.engine.checkpoint import newest_checkpoint
from training.engine.config import DpoConfig, parse_config
from training.engine.models import load_adapter, load_policy
from training.engine.pairs import load_part
from training.engine.presets import default_config, merge
from training.engine.records import write_snapshot
from training.engine.sections import DataConfig, Labels
from training.engine.text import load_text

__all__ = ["places"]  # fixture


# --- drawing ----------------------------------------------------------------------------------------------------------


def candidates(count: int) -> list[Candidate]:
    return [Candidate(line={"id": f"p{number:03d}"}, ches=float(number)) for number in range(count)]


def test_a_tenth_is_drawn_from_its_end_alike_for_a_seed():
    top, bottom = (tenth_of(candidates(60), tenth, count=4, seed=1) for tenth in ("top", "bottom"))
    assert all(one.ches >= 54 for one in top)
    assert all(one.ches < 6 for one in bottom)
    assert top == tenth_of(candidates(60), "top", count=4, seed=1)
    seen = {one.id for seed in range(30) for one in tenth_of(candidates(60), "any", count=4, seed=seed)}
    assert len(seen) > 30


def test_a_tenth_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="7 pairs were asked for, the top tenth has 6"):
        tenth_of(candidates(60), "top", count=7, seed=1)


@pytest.mark.parametrize("setting", ["small", "full"])
def test_every_arm_of_the_settings_is_a_config_that_the_engine_takes(setting: str):
    settings = json.loads((CONFIGS / "displacement.json").read_text())[setting]
    for arm in ARMS:
        models = {"base": "-"}
        raw = merge(default_config("dpo", parameters=1), {"models": models, "data": {"snapshot": "-"}})
        config = parse_config(merge(raw, sections_of(arm, settings)))
        assert isinstance(config, DpoConfig)
        assert config.dpo.drop_similar == (settings["remedies"]["drop_similar"] if arm.key == "natural_fewer" else 0)
        assert config.dpo.nll_weight == (settings["remedies"]["nll_weight"] if arm.key == "natural_nll" else 0)
        wanted = settings[arm.kind]
        assert wanted["epochs"] * -(-wanted["pairs"] // wanted["batch"]) <= 100


# --- reading a run ----------------------------------------------------------------------------------------------------


def test_what_a_run_moved_is_read_from_its_adapter(places: dict[str, Path], tmp_path: Path):
    config = planted_config("dpo", **places, batch={"epochs": 1}, dpo={"drop_similar": 0.25}, eval={"prompts": 0})
    out = tmp_path / "out"
    assert run_here(config, out) == 0, error_of(out)
    text = load_text(places["base"])
    pairs = load_part("train", data=DataConfig(snapshot=str(places["snapshot"])), labels=Labels.HARD, text=text).pairs
    found = moved_by(out, pairs, base=places["base"], words=True)
    assert [one.id for one in found] == [pair.id for pair in pairs]
    assert {one.id for one in found if not one.trained} == set(result_of(out)["dropped_similar"])
    saved = newest_checkpoint(out / "checkpoints")
    assert saved is not None
    base = load_policy(places["base"])
    trained = load_adapter(load_policy(places["base"]), saved.path / "adapter")
    pair, one = pairs[5], found[5]
    before, after = (_logps(model, pair.sharing.prompt, pair.sharing.completions[0]) for model in (base, trained))
    assert one.chosen == pytest.approx(after - before, abs=1e-4)
    assert one.margin == pytest.approx(one.chosen - one.rejected)
    # What the words gained in all is nothing, and each as the model's own head says.
    assert one.gains is not None
    assert float(one.gains.sum()) == pytest.approx(0, abs=1e-5)
    laws = [_law(model, pair.sharing.prompt) for model in (base, trained)]
    assert one.gains.tolist() == pytest.approx((laws[1] - laws[0]).tolist(), abs=1e-5)


def _logps(model, prompt, completion) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].double().log_softmax(dim=1)
    return sum(float(logits[len(prompt) - 1 + place, word]) for place, word in enumerate(completion))


def _law(model, prompt):
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(prompt)])).logits[0, -1].softmax(dim=0)


def test_the_figure_of_the_head_is_that_of_its_rows(tmp_path: Path):
    directory = tiny_model(tmp_path / "model", spread=0.3)
    write_snapshot(
        tmp_path / "snapshot",
        kind="preferences",
        label_policy=LABEL_POLICY,
        split=SPLIT,
        lines={"train": [preference(0, chosen="good", rejected="bad")]},
    )
    text = load_text(directory)
    (pair,) = load_part(
        "train", data=DataConfig(snapshot=str(tmp_path / "snapshot")), labels=Labels.HARD, text=text
    ).pairs
    model = load_policy(directory)
    head = model.get_output_embeddings().weight.detach()
    state = one_by_one(model, pair.sharing.prompt, pair.sharing.completions[0])[0].float()
    mean = (head @ state).softmax(dim=0) @ head
    chosen, rejected = (head[ids[0]] for ids in pair.sharing.completions)
    assert head_figures([pair], base=directory) == pytest.approx(
        [float((mean - chosen) @ (chosen - rejected))], abs=1e-4
    )


# --- conclusions ------------------------------------------------------------------------------------------------------


def moved(chosen: float, margin: float, *, number: int, trained: bool = True) -> Moved:
    wobble = 0.01 * (number % 3)
    gains = torch.tensor([0.1, -0.2, 0.05, 0.04, 0.01])
    return Moved(
        id=f"p{number}",
        prompt=f"{number}",
        chosen=chosen + wobble,
        rejected=chosen - margin,
        trained=trained,
        gains=gains,
    )


def trials(**chosen: float) -> list[Trial]:
    """Three seeds in which each arm moves its pairs as published, unless told otherwise."""
    usual = {
        "words_top": -1.0, "words_bottom": 1.0, "words_any": 0.1,
        "natural_top": -2.0, "natural_bottom": 0.5, "natural_any": -0.5, "natural_fewer": -0.2, "natural_nll": 0.3,
    }  # fmt: skip
    found = []
    for seed in (1, 2, 3):
        arms = {
            arm.key: [
                moved((usual | chosen)[arm.key], 2.0, number=number, trained=arm.key != "natural_fewer" or number > 1)
                for number in range(8)
            ]
            for arm in ARMS
        }
        foretold = {f"p{number}": (float(number), -float(number)) for number in range(8)}
        found.append(Trial(seed=seed, moved=arms, foretold=foretold))
    return found


def test_figures_as_published_hold_and_others_do_not():
    assert [claim.holds for claim in claims(trials())] == [True] * 8
    refuted = {claim.claim[:20]: claim.holds for claim in claims(trials(words_top=0.4, natural_fewer=-0.9))}
    assert refuted["Words, top tenth of "] is False
    assert refuted["Without the most ali"] is False


def test_a_claim_whose_interval_holds_zero_is_open():
    first = claims(trials(words_bottom=-0.01))[1]
    assert first.holds is None


def test_a_remedy_is_held_against_the_same_pairs():
    found = trials()
    assert gained_over(found, "natural_fewer", "natural_any").value == pytest.approx(0.3)
    # Of the pairs that were left out nothing is counted.
    assert mean_of(found, "natural_fewer", "chosen").value == pytest.approx(-0.2 + 0.01, abs=0.005)


def test_ranks_not_values_are_correlated():
    assert rank_correlation([1.0, 2.0, 100.0], [-1.0, -2.0, -3.0]) == pytest.approx(-1)
    assert rank_correlation([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(0.8)


def test_findings_can_be_shown(tmp_path: Path):
    text = load_text(tiny_model(tmp_path / "model"))
    settings = {"words": {"epochs": 20, "pairs": 8}}
    found = findings(trials(), settings, text=text)
    arms = found.tables[0]
    assert [row["arm"] for row in arms.rows] == [arm.label for arm in ARMS]
    assert arms.rows[0]["seeds"] == "-0.99; -0.99; -0.99"
    assert found.tables[2].rows[0]["gain"] == pytest.approx(0.1)
    assert len(found.charts) == 2
    assert 1 <= len(found.reading) <= 5
    assert EXPERIMENT.question.endswith("?")
