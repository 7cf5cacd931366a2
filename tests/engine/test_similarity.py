"""CHES: packed as one completion at a time, on a table as by hand, and what is left out of a run for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.engine_runs import error_of, lines_of, own_signals, places, result_of, run_here, same_numbers
from tests.engine.planted import LABEL_POLICY, SPLIT, planted_config, preference
from tests.engine.tabular import TableLM
from tests.engine.tiny import tiny_model
from training.engine.__main__ import main
from training.engine.checkpoint import newest_checkpoint
from training.engine.errors import Diverged
from training.engine.files import directory_hash
from training.engine.metrics import METRICS
from training.engine.models import load_policy
from training.engine.packing import Sharing, use_packed_attention
from training.engine.pairs import Pair, load_part
from training.engine.records import write_snapshot
from training.engine.sections import DataConfig, Labels
from training.engine.similarity import Similarity, ches, measure_similarity, most_similar, summary
from training.engine.text import load_text

_ = places
CPU = torch.device("cpu")


def measured(model: Any, pairs: list[Pair], *, micro_tokens: int = 128) -> list[Similarity]:
    return measure_similarity(model, pairs, device=CPU, micro_tokens=micro_tokens, between=lambda: None)


def one_by_one(model: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> Tensor:
    """The states that predict the tokens of one completion, read alone by the model's own ways: [T, D] fp64."""
    with torch.no_grad():
        output = model(input_ids=torch.tensor([[*prompt, *completion]]), output_hidden_states=True)
    states: Tensor = output.hidden_states[-1][0, len(prompt) - 1 : -1].double()
    assert len(states) == len(completion)
    return states


def pair(name: str, *completions: tuple[int, ...], prompt: tuple[int, ...] = (9,), **more: Any) -> Pair:
    made = Pair(
        id=name,
        group=name,
        sharing=Sharing(prompt=prompt, completions=completions),
        q=1.0,
        weight=1.0,
        prompt=[{"role": "user", "content": "?"}],
        texts=("a", "b"),
        finishes=("end", "end"),
    )
    return replace(made, **more)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_packs_give_what_one_completion_at_a_time_gives(tmp_path: Path) -> None:
    directory = tiny_model(tmp_path / "model", spread=0.3)
    write_snapshot(
        tmp_path / "snapshot",
        kind="preferences",
        label_policy=LABEL_POLICY,
        split=SPLIT,
        lines={"train": [preference(number, chosen_finish="length") for number in range(9)]},
    )
    text, model = load_text(directory), load_policy(directory)
    pairs = load_part(
        "train", data=DataConfig(snapshot=str(tmp_path / "snapshot")), labels=Labels.SOFT, text=text
    ).pairs
    naive = []
    for item in pairs:
        preferred, other = (one_by_one(model, item.sharing.prompt, ids) for ids in item.sharing.completions)
        sums, means = (preferred.sum(0), other.sum(0)), (preferred.mean(0), other.mean(0))
        naive.append([float(w @ o - w @ w) for w, o in (sums, means)])
    use_packed_attention(model)
    found = measured(model, pairs)
    assert [one.id for one in found] == [item.id for item in pairs]
    assert [(one.tokens_chosen, one.tokens_rejected) for one in found] == [item.lengths for item in pairs]
    for one, (whole, normalised) in zip(found, naive, strict=True):
        assert one.ches == pytest.approx(whole, rel=1e-4)
        assert one.ches_normalised == pytest.approx(normalised, rel=1e-4)
        assert -1 <= one.cosine <= 1


FEATURES = {(9,): [0.0, 0.0], (9, 0): [1.0, 0.0], (9, 1): [1.4, 0.3], (9, 2): [0.0, 1.4], (9, 1, 3): [0.0, 2.0]}


def table() -> TableLM:
    rows = torch.tensor(list(FEATURES.values()), dtype=torch.float64)
    return TableLM(list(FEATURES), torch.zeros(4, 2, dtype=torch.float64), features=rows)


def test_on_a_table_it_is_what_the_definition_says() -> None:
    alike, apart = pair("alike", (0, 3), (1, 3)), pair("apart", (0, 3), (2, 3))
    longer = pair("longer", (0, 3), (1, 3, 3))
    found = {one.id: one for one in measured(table(), [alike, apart, longer])}
    # H(0 3) = (1, 0) in two tokens; H(1 3) = (1.4, 0.3); H(2 3) = (0, 1.4); H(1 3 3) = (1.4, 2.3) in three.
    assert found["alike"].ches == pytest.approx(1.4 - 1)
    assert found["apart"].ches == pytest.approx(-1)
    assert found["apart"].cosine == pytest.approx(0)
    assert found["longer"].ches == pytest.approx(1.4 - 1)
    assert found["longer"].ches_normalised == pytest.approx(1.4 / (2 * 3) - 1 / 4)


def test_the_side_that_the_label_prefers_comes_first() -> None:
    turned = pair("turned", (1, 3), (0, 3), q=0.25)
    (found,) = measured(table(), [turned])
    assert found.ches == pytest.approx(1.4 - 1)
    tied = pair("tied", (1, 3), (0, 3), q=0.5)
    assert measured(table(), [tied])[0].ches == pytest.approx(1.4 - (1.4**2 + 0.3**2))


def test_single_tokens_without_an_end_are_all_alike(tmp_path: Path) -> None:
    model = load_policy(tiny_model(tmp_path / "model", spread=0.3))
    use_packed_attention(model)
    prompt = (5, 6, 7)
    found = measured(model, [pair("x", (8,), (9,), prompt=prompt), pair("y", (8, 2), (9, 2), prompt=prompt)])
    assert (found[0].ches, found[0].cosine) == (0.0, pytest.approx(1))
    assert found[1].ches != 0


def test_an_empty_completion_has_no_states() -> None:
    (found,) = measured(table(), [pair("empty", (0, 3), ())])
    assert (found.ches, found.tokens_rejected) == (pytest.approx(-1), 0)


def test_the_difference_of_long_sums_keeps_its_digits() -> None:
    preferred = torch.full((1, 4), 1e8, dtype=torch.float64)
    sums = torch.stack([preferred, preferred + 1e-6], dim=1)
    assert float(ches(sums)) == pytest.approx(4 * 1e8 * 1e-6, rel=0.01)


def test_a_state_that_is_not_finite_names_its_pair() -> None:
    model = table()
    model.table.features[9, 0] = torch.tensor([float("nan"), 0.0], dtype=torch.float64)
    with pytest.raises(Diverged, match="bad"):
        measured(model, [pair("bad", (0, 3), (1, 3))])


# --- order ------------------------------------------------------------------------------------------------------------


def scored(name: str, value: float) -> Similarity:
    return Similarity(id=name, ches=2 * value, ches_normalised=value, cosine=0.5, tokens_chosen=4, tokens_rejected=2)


def test_the_most_similar_share_is_rounded_down_and_ties_go_by_id() -> None:
    found = [scored(name, value) for name, value in (("d", 1.0), ("a", 3.0), ("c", 2.0), ("b", 2.0), ("e", -1.0))]
    assert [one.id for one in most_similar(found, share=0.4)] == ["a", "b"]
    assert [one.id for one in most_similar(found, share=0.79)] == ["a", "b", "c"]
    assert most_similar(found, share=0.19) == []


def test_a_summary_has_ten_parts_and_the_highest_pairs() -> None:
    found = [scored(f"p{number:02d}", float((7 * number) % 60)) for number in range(60)]
    told = summary(found)
    assert told["pairs"] == 60
    assert [part["decile"] for part in told["deciles"]] == list(range(1, 11))
    assert [(part["low"], part["high"]) for part in told["deciles"]] == [(6.0 * n, 6.0 * n + 5) for n in range(10)]
    assert told["deciles"][0]["ches_normalised"] == pytest.approx(2.5)
    assert told["deciles"][0]["ches"] == pytest.approx(5)
    assert told["deciles"][0]["tokens"] == 3
    assert [pair["ches_normalised"] for pair in told["highest"]] == [float(59 - n) for n in range(50)]


def test_few_pairs_have_as_many_parts() -> None:
    told = summary([scored(name, float(place)) for place, name in enumerate("abc")])
    assert [part["pairs"] for part in told["deciles"]] == [1, 1, 1]
    assert [part["decile"] for part in told["deciles"]] == [1, 4, 7]


# --- evaluate ---------------------------------------------------------------------------------------------------------


def evaluate(places: dict[str, Path], out: Path, **changes: Any) -> int:
    raw = {
        "method": "evaluate",
        "models": {"policy": str(places["base"])},
        "data": {"snapshot": str(places["snapshot"]), "part": "train"},
        "evaluate": {"similarity": True},
        **changes,
    }
    path = out.with_suffix(".json")
    path.write_text(json.dumps(raw))
    with own_signals():
        return main(["evaluate", str(path), "--out", str(out)])


def test_evaluate_writes_a_line_a_pair_and_a_summary(places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert evaluate(places, out) == 0, error_of(out)
    lines, result = lines_of(out / "similarity.jsonl"), result_of(out)
    assert [line["id"] for line in lines] == [f"p{number:03d}" for number in range(24)]
    assert lines[0].keys() == {"id", "ches", "ches_normalised", "cosine", "tokens_chosen", "tokens_rejected"}
    told = result["similarity"]
    assert told["pairs"] == 24
    assert sum(part["pairs"] for part in told["deciles"]) == 24
    best = max(lines, key=lambda line: line["ches_normalised"])
    assert told["highest"][0] == best
    assert result["metrics"].keys() <= METRICS.keys()
    assert result["metrics"]["data/pairs"] == 24
    assert result["lineage"]["models"] == {"policy": directory_hash(places["base"])}
    assert lines_of(out / "samples.jsonl") == []


def test_packs_of_another_size_change_nothing(places: dict[str, Path], tmp_path: Path) -> None:
    for name, size in (("small", 1), ("large", 4096)):
        assert evaluate(places, tmp_path / name, memory={"micro_tokens": size}) == 0
    small, large = (lines_of(tmp_path / name / "similarity.jsonl") for name in ("small", "large"))
    assert [line["ches"] for line in small] == pytest.approx([line["ches"] for line in large], rel=1e-4)


def test_similarity_wants_a_policy_alone_and_preferences(places: dict[str, Path], tmp_path: Path) -> None:
    base = str(places["base"])
    assert evaluate(places, tmp_path / "a", models={"rewards": [base]}) == 2
    assert "models.policy must be set for evaluate.similarity" in error_of(tmp_path / "a")["message"]
    assert evaluate(places, tmp_path / "b", models={"policy": base, "reference": base}) == 2
    lines = [{"id": "e", "group": "g", "prompt": preference(0)["prompt"]}]
    write_snapshot(tmp_path / "s", kind="prompts", label_policy=LABEL_POLICY, split=SPLIT, lines={"train": lines})
    assert evaluate({**places, "snapshot": tmp_path / "s"}, tmp_path / "c") == 3
    assert "holds prompts, not preferences" in error_of(tmp_path / "c")["message"]


# --- what a run leaves out --------------------------------------------------------------------------------------------


def test_a_run_leaves_out_the_pairs_that_evaluate_names_first(places: dict[str, Path], tmp_path: Path) -> None:
    assert evaluate(places, tmp_path / "evaluated") == 0
    highest = result_of(tmp_path / "evaluated")["similarity"]["highest"]
    # A quarter of 24 pairs; one epoch of the 18 that are left is three steps of at most eight.
    config = planted_config("dpo", **places, dpo={"drop_similar": 0.25}, batch={"epochs": 1})
    assert run_here(config, tmp_path / "out") == 0, error_of(tmp_path / "out")
    result = result_of(tmp_path / "out")
    assert result["dropped_similar"] == [pair["id"] for pair in highest[:6]]
    first = lines_of(tmp_path / "out" / "metrics.jsonl")[0]
    assert (first["data/pairs"], first["data/dropped_similar"], result["step"]) == (18, 6, 3)
    assert "data/dropped_similar" in METRICS


def test_without_the_option_nothing_is_said(places: dict[str, Path], tmp_path: Path) -> None:
    assert run_here(planted_config("dpo", **places, batch={"epochs": 1}), tmp_path / "out") == 0
    assert "dropped_similar" not in result_of(tmp_path / "out")
    assert "data/dropped_similar" not in lines_of(tmp_path / "out" / "metrics.jsonl")[0]


@pytest.mark.parametrize("adapter", [{}, {"adapter": None, "optim": {"learning_rate": 1e-3}}], ids=["lora", "whole"])
def test_a_resumed_run_keeps_to_its_choice(
    adapter: dict[str, Any], places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = planted_config("dpo", **places, dpo={"drop_similar": 0.5}, batch={"epochs": 4, "pairs": 4}, **adapter)
    assert run_here(config, tmp_path / "whole") == 0
    former = newest_checkpoint(tmp_path / "whole" / "checkpoints")
    assert former is not None
    monkeypatch.setattr("training.engine.dpo.measure_similarity", None)  # it would be asked of trained weights
    assert run_here(config, tmp_path / "again", resume=former.path) == 0, error_of(tmp_path / "again")
    assert result_of(tmp_path / "again")["dropped_similar"] == result_of(tmp_path / "whole")["dropped_similar"]


def test_a_share_of_one_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    assert run_here(planted_config("dpo", **places, dpo={"drop_similar": 1.0}), tmp_path / "out") == 2
    assert "dpo.drop_similar must be in [0, 1)" in error_of(tmp_path / "out")["message"]


def test_a_logit_without_reference_can_leave_out_too(places: dict[str, Path], tmp_path: Path) -> None:
    options = {"logit": "simpo", "beta": 2.0, "drop_similar": 0.25}
    for name in ("a", "b"):
        assert run_here(planted_config("dpo", **places, dpo=options, batch={"epochs": 1}), tmp_path / name) == 0
    assert len(result_of(tmp_path / "a")["dropped_similar"]) == 6
    assert same_numbers(tmp_path / "a" / "metrics.jsonl", tmp_path / "b" / "metrics.jsonl")
