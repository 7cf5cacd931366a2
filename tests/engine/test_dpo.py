from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.engine_runs import error_of, lines_of, places, result_of, run_here, same_numbers
from tests.engine.planted import LABEL_POLICY, SPLIT, planted_config, preference
from training.engine import dpo, losses, starting
from training.engine.config import DpoConfig, DpoOptions, Labels, Link, Logit, parse_config
from training.engine.loop import Run
from training.engine.metrics import METRICS
from training.engine.models import load_policy
from training.engine.packing import Sharing, build_pack, use_packed_attention
from training.engine.pairs import Pair
from training.engine.presets import PRESETS, default_config, merge
from training.engine.records import write_snapshot
from training.engine.supervision import Supervision

_ = places
CPU = torch.device("cpu")
LINKS: dict[Link, dict[str, Any]] = {
    Link.NLL: {},
    Link.SMOOTHED: {"epsilon": 0.1},
    Link.ROBUST: {"epsilon": 0.1, "labels": Labels.HARD},
    Link.IPO: {"tau": 0.2},
    Link.HINGE: {},
    Link.MARGIN: {"gamma": 0.5},
}


def options_of(logit: Logit, link: Link, **more: Any) -> DpoOptions:
    return DpoOptions(logit=logit, link=link, **{**LINKS[link], **more})


def session_of(config: dict[str, Any], out: Path, pairs: list[Pair]) -> tuple[Run[Pair], DpoConfig]:
    """A run that is ready to read pairs, before its first step."""
    parsed = parse_config(config)
    assert isinstance(parsed, DpoConfig)
    out.mkdir(exist_ok=True)
    opening = starting.open_run(parsed, out, resume=None, supervision=Supervision(), kinds=("preferences",))
    model, reference = starting.load_policies(opening, parsed, pairs)
    session = starting.start_run(
        parsed,
        opening,
        kind="policy",
        trained={"policy": starting.make_trained(model, parsed.optim)},
        reference=reference,
        items=pairs,
        size=len(pairs),
    )
    return session, parsed


def pair(number: int, prompt: tuple[int, ...], chosen: tuple[int, ...], rejected: tuple[int, ...], **more: Any) -> Pair:
    made = Pair(
        id=f"p{number}",
        group=f"g{number}",
        sharing=Sharing(prompt=prompt, completions=(chosen, rejected)),
        q=1.0,
        weight=1.0,
        prompt=[{"role": "user", "content": "?"}],
        texts=("", ""),
        finishes=("end", "end"),
    )
    return replace(made, **more)


PAIRS = [
    pair(0, (5, 6, 7), (8, 9, 2), (10, 2)),
    pair(1, (11, 12), (13, 2), (14, 15, 16, 17), q=0.25, finishes=("end", "length")),
    pair(2, (7, 7, 7, 7), (2,), (18, 19, 2), q=0.5, weight=2.5),
]


def logps_one_by_one(model: Any, prompt: tuple[int, ...], completion: tuple[int, ...]) -> list[float]:
    """log π of every token of prompt (but its first) and completion, by a plain forward pass."""
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return [float(logp[place, ids[0, place + 1]]) for place in range(ids.shape[1] - 1)]


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_every_logit_is_its_formula() -> None:
    logp = torch.tensor([[-3.0, -8.0]], dtype=torch.float64)
    reference = torch.tensor([[-4.0, -6.0]], dtype=torch.float64)
    lengths = torch.tensor([[2, 4]])

    def odds(p: float) -> float:
        return math.log(p / (1 - p))

    wanted = {
        Logit.DPO: (-3 + 4) - (-8 + 6),
        Logit.DPO_AVG: (-3 + 4) / 2 - (-8 + 6) / 4,
        Logit.SIMPO: -3 / 2 - -8 / 4,
        Logit.ORPO: odds(math.exp(-3 / 2)) - odds(math.exp(-8 / 4)),
    }
    for logit, value in wanted.items():
        given = reference if logit in (Logit.DPO, Logit.DPO_AVG) else None
        found = dpo.pair_logit(DpoOptions(logit=logit), logp, given, lengths)
        assert float(found) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("link", Link)
@pytest.mark.parametrize("logit", [Logit.DPO, Logit.DPO_AVG])
@settings(max_examples=20)
@given(q=st.floats(0, 1))
def test_the_first_loss_is_known_for_every_logit_with_a_reference(logit: Logit, link: Link, q: float) -> None:
    options = options_of(logit, link)
    zero = torch.zeros(1, dtype=torch.float64)
    found = float(dpo.link_loss(options, zero, torch.tensor([q], dtype=torch.float64)))
    assert found == pytest.approx(dpo.first_loss(options), rel=1e-12)


def test_a_logit_without_reference_has_no_known_first_loss() -> None:
    assert dpo.first_loss(DpoOptions(logit=Logit.SIMPO)) is None
    assert dpo.first_loss(DpoOptions(logit=Logit.ORPO)) is None


def test_beta_scales_all_but_ipo_and_orpo() -> None:
    delta, q = torch.tensor([0.7], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    for logit, link, scale in (
        (Logit.DPO, Link.NLL, 3.0),
        (Logit.SIMPO, Link.NLL, 3.0),
        (Logit.DPO, Link.IPO, 1.0),
        (Logit.ORPO, Link.NLL, 1.0),
    ):
        options = options_of(logit, link, beta=3.0)
        bare = options_of(logit, link, beta=1.0)
        assert torch.equal(dpo.link_loss(options, delta, q), dpo.link_loss(bare, scale * delta, q))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (DpoOptions(nll_weight=0.5), "nll"),
        (DpoOptions(logit=Logit.ORPO, odds_weight=0.3), "orpo"),
        (DpoOptions(logit=Logit.ORPO, odds_weight=0.3, nll_on_prompt=True), "orpo_on_prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("micro_tokens", [1, 512])
def test_losses_are_those_of_texts_read_one_by_one(
    options: DpoOptions, wanted: str, micro_tokens: int, places: dict[str, Path], tmp_path: Path
) -> None:
    session, _ = session_of(
        planted_config("dpo", **places, memory={"micro_tokens": micro_tokens}), tmp_path / "out", PAIRS
    )
    plain = load_policy(places["base"])

    class Known:
        def lookup(self, groups: Any) -> Tensor:
            return torch.tensor([-2.0, -3.0] * len(groups), dtype=torch.float64)

    cache = Known() if options.needs_reference else None
    batch = dpo.forward(session, options, PAIRS, cache=cache, train=False)
    terms, likely, tokens, decided = [], [], [], []
    for item in PAIRS:
        prompt, (chosen, rejected) = item.sharing.prompt, item.sharing.completions
        each = [logps_one_by_one(plain, prompt, ids) for ids in (chosen, rejected)]
        sums = [sum(logp[len(prompt) - 1 :]) for logp in each]
        means = [total / len(ids) for total, ids in zip(sums, (chosen, rejected), strict=True)]
        better = 1 if item.q < 0.5 else 0
        if wanted == "nll":
            u = 0.1 * ((sums[0] + 2) - (sums[1] + 3))
            decided.append((item.weight, -means[0]) if item.q > 0.5 else (0.0, 0.0))
        else:
            u = float(losses.log_odds(torch.tensor(means[0]).double()) - losses.log_odds(torch.tensor(means[1])))
        linked = item.q * math.log1p(math.exp(-u)) + (1 - item.q) * math.log1p(math.exp(u))
        terms.append((item.weight, linked, -means[better]))
        likely.append((item.weight, -sum(each[better])))
        tokens.append(item.weight * len(each[better]))
    weight = sum(w for w, _, _ in terms)
    mean = sum(w * linked for w, linked, _ in terms) / weight
    if wanted == "nll":
        expected = mean + 0.5 * sum(w * x for w, x in decided) / sum(w for w, _ in decided)
    elif wanted == "orpo":
        expected = 0.3 * mean + sum(w * x for w, _, x in terms) / weight
    else:
        expected = 0.3 * mean + sum(w * x for w, x in likely) / sum(tokens)
    assert float((batch.losses * batch.weights).sum() / batch.weights.sum()) == pytest.approx(expected, rel=1e-5)


def test_a_step_reads_its_pairs_once(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it measures entropy or scores the prompts too."""
    session, _ = session_of(planted_config("dpo", **places), tmp_path / "out", PAIRS)
    passes: list[int] = []
    real = dpo.hidden_states

    def count(model: Any, pack: Any) -> Tensor:
        passes.append(len(pack.ids))
        return real(model, pack)

    monkeypatch.setattr(dpo, "hidden_states", count)
    for options in (DpoOptions(logit=Logit.SIMPO), DpoOptions(logit=Logit.ORPO, nll_on_prompt=True)):
        dpo._take_step(session, options, PAIRS, cache=None)
        assert passes == [sum(item.sharing.positions for item in PAIRS)]
        passes.clear()


def test_the_rows_of_a_prompt_predict_its_tokens_and_leave_out_the_first() -> None:
    pack = build_pack([item.sharing for item in PAIRS], device=CPU)
    rows, owner = dpo._prompt_rows(pack, PAIRS)
    assert pack.ids[rows + 1].tolist() == [6, 7, 12, 7, 7, 7]
    assert owner.tolist() == [0, 0, 1, 2, 2, 2]
    assert pack.ids[rows].tolist() == [5, 6, 11, 7, 7, 7]


def test_an_empty_completion_has_log_probability_zero_and_finite_loss(places: dict[str, Path], tmp_path: Path) -> None:
    pairs = [pair(0, (5, 6), (), (8, 2), finishes=("length", "end")), PAIRS[0]]
    session, _ = session_of(planted_config("dpo", **places), tmp_path / "out", pairs)
    for logit in (Logit.SIMPO, Logit.ORPO):
        batch = dpo.forward(session, DpoOptions(logit=logit), pairs, cache=None, train=False)
        assert float(batch.figures["logp_chosen"][0]) == 0
        assert bool(torch.isfinite(batch.losses).all())


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.method == "dpo"])
def test_every_preset_learns_the_planted_preference(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    defaults = default_config(name)
    config = planted_config("dpo", **places, dpo=defaults["dpo"], batch={"pairs": 8, "epochs": 4})
    if name == "orpo":
        config["dpo"]["odds_weight"] = 1.0
    if name == "nll":  # at 1 its gradient is ten times that of a preference under β 0.1
        config["dpo"]["nll_weight"] = 0.1
    assert run_here(config, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    first, last = lines[0], lines[-1]
    assert last["eval/loss"] < first["eval/loss"]
    assert last["test/accuracy"] == 1.0
    known = dpo.first_loss(DpoOptions(**{**parse_options(config)}))
    alpha = config["dpo"]["nll_weight"]
    if known is not None and not alpha:
        assert lines[1]["train/loss"] == pytest.approx(known, abs=1e-9)
    assert {name for line in lines for name in line if "/" in name} <= METRICS.keys()
    assert "train/entropy" in lines[1]
    assert "train/entropy" not in lines[2]
    assert last["eval/logp_chosen_change"] > last["eval/logp_rejected_change"]
    assert first["eval/logp_chosen_change"] == 0
    assert ("policy/logp_chosen_change" in last) == (known is not None)
    assert last["rollout/kl"] != 0


def parse_options(config: dict[str, Any]) -> dict[str, Any]:
    parsed = parse_config(config)
    assert isinstance(parsed, DpoConfig)
    return {field: getattr(parsed.dpo, field) for field in parsed.dpo.__dataclass_fields__}


@pytest.mark.parametrize("logit", ["simpo", "orpo"])
def test_without_a_reference_none_is_computed_or_held(logit: str, places: dict[str, Path], tmp_path: Path) -> None:
    adapted = planted_config("dpo", **places, dpo={"logit": logit}, batch={"epochs": 1})
    assert run_here(adapted, tmp_path / "adapted") == 0
    whole = merge(adapted, {"adapter": None, "optim": {"learning_rate": 1e-3}})
    assert run_here(whole, tmp_path / "whole") == 0
    asked = merge(whole, {"dpo": {"measure_kl": True}})
    assert run_here(asked, tmp_path / "asked") == 0
    for name, measured in (("adapted", True), ("whole", False), ("asked", True)):
        assert not (tmp_path / name / "reference").exists()
        lines = lines_of(tmp_path / name / "metrics.jsonl")
        assert lines[0].get("rollout/kl") == (0.0 if measured else None)
        assert ("kl" in lines_of(tmp_path / name / "samples.jsonl")[-1]) == measured
        assert lines[-1]["eval/logp_chosen_change"] != 0
    parsed = parse_config(whole)
    assert isinstance(parsed, DpoConfig)
    opening = starting.open_run(parsed, tmp_path, resume=None, supervision=Supervision(), kinds=("preferences",))
    assert dpo._load(parsed, opening, PAIRS)[1] is None
    whole_lines, asked_lines = (lines_of(tmp_path / name / "metrics.jsonl") for name in ("whole", "asked"))
    assert [line.get("train/loss") for line in whole_lines] == [line.get("train/loss") for line in asked_lines]


def test_a_prompt_that_is_scored_is_learned_too(places: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for on_prompt in (False, True):
        options = {"logit": "orpo", "nll_on_prompt": on_prompt}
        config = planted_config("dpo", **places, dpo=options, batch={"epochs": 1}, optim={"learning_rate": 1e-3})
        assert run_here(config, tmp_path / str(on_prompt)) == 0
        found[on_prompt] = lines_of(tmp_path / str(on_prompt) / "metrics.jsonl")[1]["train/loss"]
    assert found[True] != found[False]


def test_ties_and_weights_and_cut_completions_are_learned_from(places: dict[str, Path], tmp_path: Path) -> None:
    train = [
        preference(0),
        preference(1, prob_chosen=0.5, weight=0.5),
        preference(2, chosen_finish="length"),
        preference(3, rejected="", rejected_finish="length"),
        preference(4, prob_share=0.25, weight=3.0),
        preference(5, chosen="good", rejected="b"),
    ]
    write_snapshot(
        tmp_path / "snapshot", kind="preferences", label_policy=LABEL_POLICY, split=SPLIT, lines={"train": train}
    )
    for options in ({}, {"logit": "orpo", "nll_on_prompt": True}, {"logit": "simpo", "beta": 2.0, "nll_weight": 1.0}):
        config = planted_config("dpo", base=places["base"], snapshot=tmp_path / "snapshot", dpo=options)
        out = tmp_path / str(len(options))
        assert run_here(config, out) == 0
        assert lines_of(out / "metrics.jsonl")[0]["data/ties"] == 1


def test_falling_chosen_completions_ring_the_alarm(places: dict[str, Path], tmp_path: Path) -> None:
    lines: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for number in range(64):
        turned = preference(2 * number + 1)  # the better side is the longer one, so it can fall far
        # In training the better side is the text that validation rejects, so validation's chosen ones fall.
        if number < 24:
            turned |= {"chosen": turned["rejected"], "rejected": turned["chosen"]}
        lines["train" if number < 24 else "validation"].append(turned)
    write_snapshot(tmp_path / "snapshot", kind="preferences", label_policy=LABEL_POLICY, split=SPLIT, lines=lines)
    config = planted_config("dpo", base=places["base"], snapshot=tmp_path / "snapshot", dpo={"beta": 0.02})
    assert run_here(config, tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    assert result["metrics"]["eval/falling_share"] > 0.5
    assert result["metrics"]["eval/logp_chosen_change"] < -1
    assert "displacement" in {alarm["name"] for alarm in result["alarms"]}
    assert all(alarm["step"] > 0 for alarm in result["alarms"])
    paused = merge(config, {"stop": {"on_alarm": "pause"}})
    assert run_here(paused, tmp_path / "paused") == 0
    assert result_of(tmp_path / "paused")["status"] == "paused"


# --- reference --------------------------------------------------------------------------------------------------------


def cached(places: dict[str, Path], tmp_path: Path, **more: Any) -> tuple[dict[str, Any], Path]:
    cache = tmp_path / "cache"
    config = planted_config("dpo", **places, batch={"epochs": 1}, memory={"reference_cache": str(cache)}, **more)
    assert run_here(config, tmp_path / "first") == 0
    (path,) = cache.iterdir()
    return config, path


def test_a_reference_cache_is_shared_and_a_stale_one_discarded(places: dict[str, Path], tmp_path: Path) -> None:
    config, path = cached(places, tmp_path)
    before = path.read_text()
    assert run_here(config, tmp_path / "b") == 0
    assert path.read_text() == before
    entries = [json.loads(line) for line in before.splitlines()]
    path.write_text("".join(json.dumps({**entry, "logp": entry["logp"] + 2e-4}) + "\n" for entry in entries))
    assert run_here(config, tmp_path / "c") == 0
    assert path.read_text() == before
    assert same_numbers(tmp_path / "first" / "metrics.jsonl", tmp_path / "c" / "metrics.jsonl")


def test_a_stale_entry_that_the_draw_misses_is_caught_by_the_first_loss(
    places: dict[str, Path], tmp_path: Path
) -> None:
    config, path = cached(places, tmp_path)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(
            json.dumps({**entry, "logp": entry["logp"] + 1e-2 * (number == 0)}) + "\n"
            for number, entry in enumerate(entries)
        )
    )
    assert run_here(config, tmp_path / "b") == 1
    assert "π is not π_ref" in error_of(tmp_path / "b")["message"]


def test_a_cache_of_another_order_of_the_data_is_within_rounding(places: dict[str, Path], tmp_path: Path) -> None:
    for logit, link in (("dpo", "ipo"), ("dpo_avg", "nll")):
        config, path = cached(places, tmp_path / logit, dpo={"logit": logit, "link": link, "beta": 5.0})
        before = path.read_text()
        assert run_here({**config, "seed": 2}, tmp_path / logit / "other") == 0
        assert path.read_text() == before


def test_the_code_version_names_another_file(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = cached(places, tmp_path)
    monkeypatch.setattr("training.engine.reference.CODE_VERSION", 1000)
    assert run_here(config, tmp_path / "b") == 0
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_broken_last_line_is_passed_over_and_written_behind(places: dict[str, Path], tmp_path: Path) -> None:
    config, path = cached(places, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert run_here(config, tmp_path / "b") == 0
    broken, *rest = path.read_bytes()[len(whole) - len(whole.splitlines(keepends=True)[-1]) :].splitlines()
    assert whole.splitlines()[-1].startswith(broken)
    lost = json.loads(whole.splitlines()[-1])
    assert lost["key"] in {json.loads(line)["key"] for line in rest}
    size = path.stat().st_size
    assert run_here(config, tmp_path / "c") == 0
    assert path.stat().st_size == size
    assert same_numbers(tmp_path / "b" / "metrics.jsonl", tmp_path / "c" / "metrics.jsonl")


def test_cached_and_frozen_reference_are_one(places: dict[str, Path], tmp_path: Path) -> None:
    """What the cache says about held-out pairs is what the frozen model says now."""
    config, path = cached(places, tmp_path)
    values = {entry["key"]: entry["logp"] for entry in map(json.loads, path.read_text().splitlines())}
    plain = load_policy(places["base"])
    use_packed_attention(plain)
    parsed = parse_config(config)
    assert isinstance(parsed, DpoConfig)
    opening = starting.open_run(parsed, tmp_path, resume=None, supervision=Supervision(), kinds=("preferences",))
    from training.engine.pairs import load_part
    from training.engine.reference import key_of

    part = load_part("test", data=parsed.data, labels=parsed.dpo.labels, text=opening.text)
    for item in part.pairs:
        for ids in item.sharing.completions:
            each = logps_one_by_one(plain, item.sharing.prompt, ids)[len(item.sharing.prompt) - 1 :]
            assert values[key_of(item.sharing.prompt, ids)] == pytest.approx(sum(each), abs=1e-4)


# --- checks before step 1 ---------------------------------------------------------------------------------------------


def test_a_loss_that_depends_on_the_split_is_a_defect(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dpo.link_loss
    monkeypatch.setattr(dpo, "link_loss", lambda options, delta, q: real(options, delta, q) * len(delta))
    assert run_here(planted_config("dpo", **places), tmp_path / "out") == 1
    assert "as it is split" in error_of(tmp_path / "out")["message"]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"link": "robust", "epsilon": 0.1}, "dpo.labels"),
        ({"logit": "orpo", "link": "hinge"}, "dpo.link"),
        ({"logit": "orpo", "nll_weight": 1.0}, "dpo.nll_weight"),
        ({"nll_on_prompt": True}, "dpo.nll_on_prompt"),
        ({"logit": "simpo", "link": "ipo"}, "dpo.logit"),
        ({"link": "margin"}, "dpo.gamma"),
        ({"beta": 0}, "dpo.beta"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_by_name(
    options: dict[str, Any], key: str, places: dict[str, Path], tmp_path: Path
) -> None:
    assert run_here(planted_config("dpo", **places, dpo=options), tmp_path / "out") == 2
    assert key in error_of(tmp_path / "out")["message"]
