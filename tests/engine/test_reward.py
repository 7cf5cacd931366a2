from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.engine_runs import error_of, lines_of, places, result_of, run_here
from tests.engine.planted import LABEL_POLICY, SPLIT, planted_config, planted_snapshot, preference
from training.engine import losses, reward, starting
from training.engine.compared import compare, pairs_of
from training.engine.config import Labels, RankingLink, RewardConfig, RewardOptions, Ties, parse_config
from training.engine.examples import Ranked, load_rankings
from training.engine.loop import Run
from training.engine.metrics import METRICS
from training.engine.models import load_reward_model, read_json
from training.engine.packing import Sharing, use_packed_attention
from training.engine.pairs import Pair, half_of
from training.engine.records import iter_lines, write_snapshot
from training.engine.scoring import Given, GivenCompletion, load_reward_models
from training.engine.sections import Half
from training.engine.supervision import Supervision

_ = places
CPU = torch.device("cpu")
WORDS = ("good good", "good", "bad", "bad bad")


def ranking(number: int, **changes: Any) -> dict[str, Any]:
    """Four texts in an order of their own in each line; lengths of the two best and the two worst are alike."""
    turn = number % 4
    texts = [f"{word} dog" for word in WORDS[turn:] + WORDS[:turn]]
    record = {
        "id": f"k{number:03d}",
        "group": f"g{number:03d}",
        "prompt": [{"role": "user", "content": f"What is the name of dog {number}?"}],
        "completions": texts,
        "ranking": [[texts.index(f"{word} dog")] for word in WORDS],
    }
    return {**record, **changes}


def rankings_snapshot(directory: Path, train: list[dict[str, Any]], *, held_out: int = 8) -> Path:
    parts = {"validation": range(500, 500 + held_out), "test": range(600, 600 + held_out)}
    lines = {"train": train, **{part: [ranking(n) for n in numbers] for part, numbers in parts.items()}}
    write_snapshot(directory, kind="rankings", label_policy=LABEL_POLICY, split=SPLIT, lines=lines)
    return directory


def ranked(ranking: list[list[int]], *, count: int = 4) -> Ranked:
    return Ranked(
        id="r",
        group="g",
        sharing=Sharing(prompt=(5,), completions=((6,),) * count),
        ranking=ranking,
        weight=1.0,
        prompt=[],
        texts=("",) * count,
        finishes=("end",) * count,
    )


def pair(q: float, **changes: Any) -> Pair:
    made = Pair(
        id="p",
        group="g",
        sharing=Sharing(prompt=(5,), completions=((6,), (7, 8))),
        q=q,
        weight=1.0,
        prompt=[],
        texts=("", ""),
        finishes=("end", "end"),
    )
    return replace(made, **changes)


def nll(u: float) -> float:
    return math.log1p(math.exp(-u))


SCORES = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)


# --- losses of items --------------------------------------------------------------------------------------------------


def test_a_ranking_is_all_its_pairs_by_their_number() -> None:
    found = reward.item_losses(RewardOptions(), SCORES, [ranked([[2], [0, 3], [1]])])
    s = SCORES.tolist()
    tie = (nll(s[0] - s[3]) + nll(s[3] - s[0])) / 2
    orders = [(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)]
    assert float(found) == pytest.approx((sum(nll(s[a] - s[b]) for a, b in orders) + tie) / 6, rel=1e-12)


def test_what_a_ranking_leaves_out_comes_after_it_in_no_order() -> None:
    assert pairs_of(ranked([[2], [0]])) == [(2, 0, 1.0), (2, 1, 1.0), (2, 3, 1.0), (0, 1, 1.0), (0, 3, 1.0)]


def test_plackett_luce_draws_place_by_place_and_stops_where_the_ranking_does() -> None:
    options = RewardOptions(link=RankingLink.PLACKETT_LUCE)
    e = SCORES.exp().tolist()
    whole = reward.item_losses(options, SCORES, [ranked([[2], [3], [0], [1]])])
    likelihood = e[2] / sum(e) * e[3] / (e[3] + e[0] + e[1]) * e[0] / (e[0] + e[1])
    assert float(whole) == pytest.approx(-math.log(likelihood), rel=1e-12)
    top = reward.item_losses(options, SCORES, [ranked([[2], [3]])])
    assert float(top) == pytest.approx(-math.log(e[2] / sum(e) * e[3] / (e[3] + e[0] + e[1])), rel=1e-12)


def test_plackett_luce_of_two_is_bradley_terry_to_the_last_digit() -> None:
    two, both = SCORES[:2], [ranked([[1], [0]], count=2)]
    plackett = reward.item_losses(RewardOptions(link=RankingLink.PLACKETT_LUCE), two, both)
    assert float(plackett) == float(reward.item_losses(RewardOptions(), two, both))


def test_items_of_all_sizes_are_told_apart() -> None:
    items = [ranked([[0], [1]], count=2), ranked([[2], [0], [1]], count=3), ranked([[1], [0]], count=2)]
    scores = torch.linspace(-1, 1, 7, dtype=torch.float64)
    together = reward.item_losses(RewardOptions(centring=0.1), scores, items)
    parts = torch.split(scores, [2, 3, 2])
    alone = [reward.item_losses(RewardOptions(centring=0.1), s, [i]) for s, i in zip(parts, items, strict=True)]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-14)


def test_a_margin_is_asked_of_the_side_that_won_only() -> None:
    options = RewardOptions(labels=Labels.HARD, margin=True)
    delta = 0.4
    scores = torch.tensor([delta, 0.0], dtype=torch.float64)
    for q, wanted in ((1.0, nll(delta - 0.7)), (0.0, nll(-delta)), (0.5, (nll(delta) + nll(-delta)) / 2)):
        found = reward.item_losses(options, scores, [pair(q, margin=0.7)])
        assert float(found) == pytest.approx(wanted, rel=1e-12)
    assert float(reward.item_losses(options, scores, [pair(1.0)])) == pytest.approx(nll(delta), rel=1e-12)
    ignored = reward.item_losses(RewardOptions(), scores, [pair(1.0, margin=0.7)])
    assert float(ignored) == pytest.approx(nll(delta), rel=1e-12)


@pytest.mark.parametrize(
    ("item", "win", "tie"),
    [
        (pair(0.7, p_tie=0.2), 0.6, 0.2),
        (pair(0.7), 0.7, 0.0),
        (pair(0.5), 0.0, 1.0),
        (pair(0.9, p_tie=0.5), 0.8, 0.2),  # more ties than that would leave the loser less than nothing
    ],
)
def test_ties_are_what_the_line_says_or_where_q_is_a_half(item: Pair, win: float, tie: float) -> None:
    eta, delta = 0.6, 0.4
    scores = torch.tensor([delta, 0.0], dtype=torch.float64)
    found = reward.item_losses(
        RewardOptions(ties=Ties.RAO_KUPPER), scores, [item], tie_width=torch.tensor(eta, dtype=torch.float64)
    )
    p_win, p_lose = 1 / (1 + math.exp(eta - delta)), 1 / (1 + math.exp(eta + delta))
    shares = (win, tie, 1 - win - tie)
    wanted = -sum(s * math.log(p) for s, p in zip(shares, (p_win, 1 - p_win - p_lose, p_lose), strict=True) if s > 0)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_what_q_is_held_beside_counts_half_the_ties() -> None:
    eta, delta = 0.6, 0.4
    p_win, p_lose = 1 / (1 + math.exp(eta - delta)), 1 / (1 + math.exp(eta + delta))
    expected = p_win + (1 - p_win - p_lose) / 2
    assert reward._expected(delta, eta) == pytest.approx(math.log(expected / (1 - expected)), rel=1e-12)
    assert reward._expected(-delta, eta) == pytest.approx(-reward._expected(delta, eta), rel=1e-12)
    assert reward._expected(1000.0, eta) == 1000.0


def test_the_tie_width_starts_at_the_share_of_ties(places: dict[str, Path]) -> None:
    config = parse_config(planted_config("reward", **places, reward={"ties": "rao_kupper"}))
    assert isinstance(config, RewardConfig)
    items = [pair(0.5), pair(1.0), pair(1.0), pair(1.0)]
    raw = reward.first_tie_width(config, items, device=CPU)
    eta = math.log1p(math.exp(float(raw) * reward.TIE_RATE / config.optim.learning_rate))
    # Equal scores tie with 1 − 2σ(−η).
    assert 1 - 2 / (1 + math.exp(eta)) == pytest.approx(0.25, rel=1e-5)


def test_compared_pairs_carry_the_share_of_their_item() -> None:
    found = compare([ranked([[0], [1], [2]], count=3), pair(0.25)], margins=False, dtype=torch.float64, device=CPU)
    assert found.first.tolist() == [0, 0, 1, 3]
    assert found.second.tolist() == [1, 2, 2, 4]
    assert found.item.tolist() == [0, 0, 0, 1]
    assert found.share.tolist() == pytest.approx([1 / 3] * 3 + [1])
    assert found.q.tolist() == [1, 1, 1, 0.25]


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"link": "plackett_luce", "centring": 0.01}], ids=["pairs", "plackett_luce"])
def test_a_reward_model_learns_from_rankings(options: dict[str, Any], places: dict[str, Path], tmp_path: Path) -> None:
    train = [ranking(n) for n in range(24)]
    train[1] |= {"ranking": train[1]["ranking"][:2], "weight": 2.0}
    train[2] |= {"finishes": ["length", "end", "end", "end"], "completions": ["", *train[2]["completions"][1:]]}
    snapshot = rankings_snapshot(tmp_path / "snapshot", train)
    config = planted_config("reward", base=places["base"], snapshot=snapshot, reward=options, batch={"epochs": 6})
    assert run_here(config, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    assert (lines[0]["data/rankings"], lines[0]["data/pairs"]) == (24, 23 * 6 + 5)
    assert lines[-1]["test/accuracy"] > 0.9
    assert lines[-1]["test/pairs"] == 8 * 6
    assert lines[-1]["test/groups"] == 8
    assert lines[-1]["eval/loss"] < lines[0]["eval/loss"]
    assert {name for line in lines for name in line if "/" in name} <= METRICS.keys()
    samples = [line for line in lines_of(tmp_path / "out" / "samples.jsonl") if line["step"] == 18]
    assert len(samples) == 2 * 4


def test_the_completions_of_a_ranking_share_their_prompt(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = rankings_snapshot(tmp_path / "snapshot", [ranking(n) for n in range(4)], held_out=0)
    config = planted_config("reward", base=places["base"], snapshot=snapshot, batch={"epochs": 1})
    trained: list[tuple[int, int]] = []
    real = reward.scores

    def count(model: Any, pack: Any) -> Tensor:
        if torch.is_grad_enabled():
            trained.append((len(pack.ids), len(pack.lengths)))
        return real(model, pack)

    monkeypatch.setattr(reward, "scores", count)
    assert run_here(config, tmp_path / "out") == 0
    parsed = parse_config(config)
    assert isinstance(parsed, RewardConfig)
    opening = starting.open_run(parsed, tmp_path, resume=None, supervision=Supervision(), kinds=("rankings",))
    items = load_rankings("train", data=parsed.data, text=opening.text).examples
    # Each prompt is read once in the one pass of the one step.
    assert trained == [(sum(item.sharing.positions for item in items), 16)]


def test_modelled_ties_are_learned_and_told(places: dict[str, Path], tmp_path: Path) -> None:
    """Half the pairs are ties of two good texts; the others are won."""
    train = [
        preference(n) if n % 2 else preference(n, chosen="good dog", rejected="good", prob_chosen=0.5)
        for n in range(48)
    ]
    write_snapshot(
        tmp_path / "snapshot",
        kind="preferences",
        label_policy=LABEL_POLICY,
        split=SPLIT,
        lines={"train": train, "validation": [preference(n) for n in range(500, 508)]},
    )
    config = planted_config(
        "reward", base=places["base"], snapshot=tmp_path / "snapshot", reward={"ties": "rao_kupper"}
    )
    assert run_here(config, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")
    widths = [line["train/tie_width"] for line in lines[1:]]
    # Ties are known by their texts, so a wider band makes them likelier while the wins move out of it.
    assert widths[0] == pytest.approx(2 * math.atanh(0.5), abs=2 * reward.TIE_RATE)
    assert abs(widths[-1] - widths[0]) > reward.TIE_RATE
    assert lines[-1]["eval/loss"] < lines[0]["eval/loss"]
    folder = tmp_path / "out" / result_of(tmp_path / "out")["checkpoints"]["last"]["path"]
    assert read_json(folder / "winnow.json")["tie_width"] == widths[-1]
    assert {name for line in lines for name in line if "/" in name} <= METRICS.keys()


def test_winnow_json_says_what_the_scores_are(places: dict[str, Path], tmp_path: Path) -> None:
    assert run_here(planted_config("reward", **places, adapter=None), tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    folder = tmp_path / "out" / result["checkpoints"]["last"]["path"]
    facts = read_json(folder / "winnow.json")["reward"]
    assert facts.keys() == {"mean", "std", "count", "step", "p99", "temperature", "length_slope"}
    assert facts == read_json(folder / "model" / "winnow.json")["reward"]
    assert (facts["count"], facts["step"]) == (16, 12)
    assert facts["temperature"] == result["metrics"]["eval/temperature"]
    lines = lines_of(tmp_path / "out" / "metrics.jsonl")[1:]
    # The mean of what the batches had is below their top, and nothing is above all of them.
    tops = [line["train/score_mean"] + 10 * line["train/score_std"] for line in lines]
    assert min(line["train/score_mean"] for line in lines) < facts["p99"] < max(tops)


def test_the_99th_percentile_is_that_of_the_latest_training_scores(places: dict[str, Path], tmp_path: Path) -> None:
    session = _session(places, tmp_path)
    reward._remember(session, [1000.0] * 10)
    reward._remember(session, [float(n) for n in range(reward.RECENT_SCORES - 1)])
    kept = session.tensors["recent_scores"]
    assert len(kept) == reward.RECENT_SCORES
    assert (float(kept[0]), float(kept[-1])) == (1000.0, reward.RECENT_SCORES - 2)
    reward._describe_scores(session, [0.0, 2.0], {"eval/temperature": 1.5})
    assert session.progress.scores is not None
    # Of 0 … 2046 and one 1000 the place 0.99 · 2047 is 2026.53, one place behind the doubled 1000.
    assert session.progress.scores["p99"] == pytest.approx(0.99 * 2047 - 1)
    assert (session.progress.scores["mean"], session.progress.scores["std"]) == (1, 1)
    assert session.progress.scores["temperature"] == 1.5


def _session(places: dict[str, Path], tmp_path: Path, **overrides: Any) -> Run[Any]:
    parsed = parse_config(planted_config("reward", **places, **overrides))
    assert isinstance(parsed, RewardConfig)
    tmp_path.mkdir(exist_ok=True)
    opening = starting.open_run(parsed, tmp_path, resume=None, supervision=Supervision(), kinds=("preferences",))
    part = reward._load_examples("train", parsed, opening)
    return starting.start_run(
        parsed,
        opening,
        kind="reward",
        trained={"reward": starting.make_trained(reward._load(parsed, opening, part.examples), parsed.optim)},
        items=part.examples,
        size=8,
    )


def test_the_gradient_does_not_depend_on_the_split(places: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for micro_tokens in (1, 128, 4096):
        session = _session(places, tmp_path / str(micro_tokens), memory={"micro_tokens": micro_tokens})
        batch = reward.forward(session, RewardOptions(centring=0.01), session.items, train=True)
        gradients = [p.grad.flatten() for p in session.trained["reward"].parameters if p.grad is not None]
        found.append((float((batch.losses * batch.weights).sum()), torch.cat(gradients)))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        assert float((gradient - found[0][1]).abs().max()) < 1e-5 * float(found[0][1].abs().max())


def test_soft_labels_end_at_the_share_of_the_votes(places: dict[str, Path], tmp_path: Path) -> None:
    train = [preference(n, prob_chosen=0.9, prob_share=0.75) for n in range(24)]
    lines = {"train": train, "validation": [preference(n, prob_share=0.75) for n in range(500, 516)]}
    write_snapshot(tmp_path / "snapshot", kind="preferences", label_policy=LABEL_POLICY, split=SPLIT, lines=lines)
    for target, share in (("share", 0.75), ("posterior", 0.9)):
        config = planted_config(
            "reward", base=places["base"], snapshot=tmp_path / "snapshot", data={"target": target}, batch={"epochs": 20}
        )
        assert run_here(config, tmp_path / target) == 0
        margin = result_of(tmp_path / target)["metrics"]["eval/margin"]
        assert 1 / (1 + math.exp(-margin)) == pytest.approx(share, abs=0.03)


def test_two_halves_make_two_models_that_can_be_held_beside_each_other(places: dict[str, Path], tmp_path: Path) -> None:
    planted_snapshot(tmp_path / "snapshot", train=48)
    directories, seen = [], []
    for half in ("first", "second"):
        config = planted_config(
            "reward", base=places["base"], snapshot=tmp_path / "snapshot", adapter=None, data={"half": half}
        )
        assert run_here({**config, "seed": len(seen) + 1}, tmp_path / half) == 0
        result = result_of(tmp_path / half)
        directories.append(str(tmp_path / half / result["checkpoints"]["last"]["path"] / "model"))
        seen.append(lines_of(tmp_path / half / "metrics.jsonl")[0]["data/pairs"])
        assert result["metrics"]["test/accuracy"] == 1.0
    train = list(iter_lines(tmp_path / "snapshot", "train"))
    assert seen == [sum(half_of(line["group"]) is half for line in train) for half in (Half.FIRST, Half.SECOND)]
    assert sum(seen) == 48
    ensemble = load_reward_models(directories, device="cpu")
    items = [
        Given(
            id=line["id"],
            prompt=line["prompt"],
            completions=[GivenCompletion(text=line["chosen"]), GivenCompletion(text=line["rejected"])],
        )
        for line in iter_lines(tmp_path / "snapshot", "test")
    ]
    found = ensemble.score(items).view(2, -1, 2)
    margins = found[..., 0] - found[..., 1]
    assert bool((margins > 0).all())
    disagreement = margins.std(dim=0)
    assert bool((disagreement > 0).all())
    assert torch.allclose(ensemble(items), found.flatten(1).mean(dim=0))


def test_a_model_that_follows_length_rings_the_alarm(places: dict[str, Path], tmp_path: Path) -> None:
    """The longer one always won in training; on held-out pairs, where the better word is the shorter, it does not."""
    lines = {
        "train": [preference(n, chosen="good" + " it is" * (n % 4 + 1), rejected="good") for n in range(24)],
        "validation": [preference(n, chosen="good", rejected="good" + " it is" * (n % 4 + 1)) for n in range(500, 564)],
    }
    write_snapshot(tmp_path / "snapshot", kind="preferences", label_policy=LABEL_POLICY, split=SPLIT, lines=lines)
    config = planted_config("reward", base=places["base"], snapshot=tmp_path / "snapshot")
    assert run_here(config, tmp_path / "out") == 0
    result = result_of(tmp_path / "out")
    assert result["metrics"]["eval/length_slope"] > 0
    assert {"length_bias", "calibration"} <= {alarm["name"] for alarm in result["alarms"] if alarm["step"] == 12}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"margin": True}, "reward.margin"),
        ({"centring": -1.0}, "reward.centring"),
        ({"ties": "rao_kupper", "link": "plackett_luce"}, "reward.ties"),
        ({"ties": "rao_kupper", "margin": True, "labels": "hard"}, "reward.ties"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    options: dict[str, Any], key: str, places: dict[str, Path], tmp_path: Path
) -> None:
    assert run_here(planted_config("reward", **places, reward=options), tmp_path / "out") == 2
    assert key in error_of(tmp_path / "out")["message"]


def test_a_margin_that_no_line_has_is_refused(places: dict[str, Path], tmp_path: Path) -> None:
    options = {"margin": True, "labels": "hard"}
    assert run_here(planted_config("reward", **places, reward=options), tmp_path / "out") == 3
    assert "reward.margin" in error_of(tmp_path / "out")["message"]
    snapshot = rankings_snapshot(tmp_path / "snapshot", [ranking(n) for n in range(8)])
    config = planted_config("reward", base=places["base"], snapshot=snapshot, reward=options)
    assert run_here(config, tmp_path / "ranked") == 2
    assert "reward.margin" in error_of(tmp_path / "ranked")["message"]


def test_a_margin_widens_what_is_learned(places: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for margin in (0.0, 2.0):
        lines = {"train": [preference(n, margin=margin) for n in range(24)]}
        snapshot = tmp_path / f"snapshot-{margin}"
        write_snapshot(snapshot, kind="preferences", label_policy=LABEL_POLICY, split=SPLIT, lines=lines)
        options = {"margin": True, "labels": "hard"}
        config = planted_config("reward", base=places["base"], snapshot=snapshot, reward=options)
        assert run_here(config, tmp_path / str(margin)) == 0
        found[margin] = lines_of(tmp_path / str(margin) / "metrics.jsonl")[1:]
    first, second = found[0.0][0]["train/margin"], found[2.0][0]["train/margin"]
    assert first == second
    assert found[2.0][0]["train/loss"] > found[0.0][0]["train/loss"]


def test_tied_places_are_refused_under_plackett_luce(places: dict[str, Path], tmp_path: Path) -> None:
    train = [ranking(n) for n in range(8)]
    train[3]["ranking"] = [[0, 1], [2], [3]]
    snapshot = rankings_snapshot(tmp_path / "snapshot", train)
    config = planted_config("reward", base=places["base"], snapshot=snapshot, reward={"link": "plackett_luce"})
    assert run_here(config, tmp_path / "out") == 3
    message = error_of(tmp_path / "out")["message"]
    assert "k003" in message
    assert "reward.link" in message
    assert run_here(planted_config("reward", base=places["base"], snapshot=snapshot), tmp_path / "pairs") == 0


def test_a_loss_that_depends_on_the_split_is_a_defect(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = losses.preference_nll
    monkeypatch.setattr(losses, "preference_nll", lambda u, q: real(u, q) * len(u))
    assert run_here(planted_config("reward", **places), tmp_path / "out") == 1
    assert "as it is split" in error_of(tmp_path / "out")["message"]


def test_a_completion_that_decodes_to_another_text_is_refused(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.engine.text import Text

    real = Text.completion_ids
    monkeypatch.setattr(
        Text, "completion_ids", lambda self, text, *, finished: real(self, text + "!", finished=finished)
    )
    snapshot = rankings_snapshot(tmp_path / "snapshot", [ranking(n) for n in range(8)])
    assert run_here(planted_config("reward", base=places["base"], snapshot=snapshot), tmp_path / "out") == 3
    assert "k000" in error_of(tmp_path / "out")["message"]


def test_the_model_loads_elsewhere_with_the_scores_that_it_had(places: dict[str, Path], tmp_path: Path) -> None:
    snapshot = rankings_snapshot(tmp_path / "snapshot", [ranking(n) for n in range(8)])
    config = planted_config("reward", base=places["base"], snapshot=snapshot, adapter=None)
    assert run_here(config, tmp_path / "out") == 0
    folder = tmp_path / "out" / result_of(tmp_path / "out")["checkpoints"]["last"]["path"] / "model"
    plain = load_reward_model(folder, seed=1)
    use_packed_attention(plain)
    samples = lines_of(tmp_path / "out" / "samples.jsonl")
    last = [line for line in samples if line["step"] == samples[-1]["step"]]
    members = load_reward_models([str(folder)], device="cpu")
    item = Given(
        id="x", prompt=last[0]["prompt"], completions=[GivenCompletion(text=line["completion"]) for line in last[:4]]
    )
    mean = json.loads((folder / "winnow.json").read_text())["reward"]["mean"]
    assert members([item]).tolist() == pytest.approx([line["score"] - mean for line in last[:4]], abs=1e-5)
