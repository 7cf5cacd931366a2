"""The benchmark of training without its cells: what is made of their figures, and which of them are run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import training
from benchmarks.training_cells import Mark, has_bf16, watch
from benchmarks.training_rows import Speed, check_first_losses, comparisons, detail, rows_of, speed_of


def speed(rate: float, *, memory: int = 2**30, reference: float = 0.0, first_loss: float | None = 0.7) -> Speed:
    return Speed(
        rate=rate,
        per_wall=rate,
        best_per_wall=rate,
        step_seconds=1 / rate,
        reference_cost=reference,
        peak_bytes=memory,
        first_loss=first_loss,
        padded=None,
        phases={},
    )


def asked(**given) -> argparse.Namespace:
    usual = {"device": "cpu", "dtype": None, "flags": None, "small": False, "ppo_trl": None}
    return argparse.Namespace(**{**usual, **given})


def setting(device: str) -> training.Setting:
    return training.Setting(
        model=Path(),
        reward_model=Path(),
        directory=Path(),
        device=device,
        dtype="fp32",
        threads=1,
        timed=2,
        shortest=32,
        longest=64,
        response=32,
        ppo_trl=None,
    )


def test_a_ratio_is_the_median_of_the_turns_ratios_not_the_ratio_of_medians():
    # Turn by turn 2, 2 and 4; the medians are 20 and 5, which would make 4.
    ours, peer = [speed(rate) for rate in (20.0, 80.0, 16.0)], [speed(rate) for rate in (10.0, 40.0, 4.0)]
    row = rows_of("sft", {"ours": ours, "defaults": peer}, device="cpu")[0]
    assert (row.what, row.ours, row.peer, row.ratio) == ("sft", 20.0, 10.0, 2.0)
    assert not row.ok, "2 is below the 2.2 that is asked for"


def test_dpo_counts_the_references_pass_but_in_the_row_of_the_cache():
    # 1/10 s a token and 1/10 of the reference are 5 tokens/s; the peer's 1/4 and 1/4 are 2.
    found = {"ours": [speed(10.0, reference=0.1)], "best": [speed(4.0, reference=0.25)]}
    rows = {row.what: row for row in rows_of("dpo", found, device="cpu", suffix=", bf16")}
    assert rows["dpo, best flags, bf16"].ours == pytest.approx(5.0)
    assert rows["dpo, best flags, bf16"].peer == pytest.approx(2.0)
    assert rows["dpo cached reference, bf16"].ratio == pytest.approx(2.5)


def test_memory_has_a_row_beside_the_best_flags_alone():
    ours, peer = [speed(1.0, memory=2**30)], [speed(1.0, memory=2**31)]
    named = {row.what: row for row in rows_of("reward", {"ours": ours, "best": peer}, device="cpu")}
    assert named["reward, memory"].ratio == 2.0
    assert "reward, memory" not in {
        row.what for row in rows_of("reward", {"ours": ours, "defaults": peer}, device="cpu")
    }


def test_without_a_peer_our_own_figures_are_the_rows():
    rows = rows_of("grpo", {"ours": [speed(3.0, memory=2**29)]}, device="cuda")
    assert [(row.what, row.unit, row.ours, row.peer, row.ratio, row.ok) for row in rows] == [
        ("grpo", "tokens/gpu-s", 3.0, None, None, True),
        ("grpo, memory", "GiB", 0.5, None, None, True),
    ]
    assert json.loads(json.dumps([asdict(row) for row in rows], allow_nan=False))
    assert "trl" not in training.versions_of(rows, None)


def test_a_row_without_a_target_is_never_a_failure():
    found = {"ours": [speed(1.0)], "defaults": [speed(5.0)]}
    assert [(row.target, row.ok) for row in rows_of("ppo", found, device="cuda")] == [(None, True)]


def test_steps_are_judged_by_processor_time_on_a_cpu_and_by_the_clock_on_a_gpu():
    marks = [Mark(wall=float(n), cpu=2.0 * n, line={}) for n in range(5)]
    marks[3] = Mark(wall=3.5, cpu=6.0, line={})
    entries = [(marks[0], 100), (marks[1], 30)]
    facts = {"peak_bytes": 0, "first_loss": None, "padded": 0.25, "phases": {"time/step": 1.0}}
    tokens = [7.0, 7.0, 8.0, 8.0, 8.0]  # a step more than was watched
    cpu = speed_of(marks, tokens, entries, device="cpu", **facts)
    gpu = speed_of(marks, tokens, entries, device="cuda", **facts)
    assert (cpu.rate, gpu.rate) == (16 / 4, 16 / 2)
    assert (cpu.reference_cost, gpu.reference_cost) == (2 / 30, 1 / 30)
    assert cpu.best_per_wall == 8 / 0.5
    assert cpu.step_seconds == 1.0, "the median of 1.5 and 0.5 s"
    assert "1.00 s a step, 0.00 GiB, 25% padding" in detail(cpu, device="cpu")


def test_the_line_of_a_peer_has_step_times_and_memory_of_both_sides():
    found = {"ours": [speed(4.0)], "defaults": [speed(2.0, memory=3 * 2**30)], "best": [speed(1.0)]}
    lines = comparisons("sft", found, device="cpu")
    assert len(lines) == 2
    assert "0.25 and 0.50 s a step, 1.00 and 3.00 GiB" in lines[0]
    assert "step time 2.00 (2.00 to 2.00), memory 3.00" in lines[0]


@pytest.mark.parametrize("losses", [(0.7, 0.7 * 1.002), (0.7, None)])
def test_another_first_loss_or_none_is_refused(losses):
    ours, peer = (speed(1.0, first_loss=loss) for loss in losses)
    check_first_losses("sft", {"ours": [ours], "best": [replace(peer, first_loss=0.7 * 1.0005)]}, dtype="fp32")
    with pytest.raises(AssertionError, match="first losses of sft"):
        check_first_losses("sft", {"ours": [ours], "best": [peer]}, dtype="fp32")


def test_bf16_is_left_out_where_the_processor_would_imitate_it(tmp_path, monkeypatch, capsys):
    has, lacks = tmp_path / "has", tmp_path / "lacks"
    has.write_text("model name\t: amx_bf16\nflags\t\t: fpu avx512_bf16 sse\n")
    lacks.write_text("model name\t: amx_bf16\nflags\t\t: fpu avx512_bf16x sse\n")
    assert [has_bf16(path) for path in (has, lacks, tmp_path / "absent")] == [True, False, False]
    monkeypatch.setattr(training, "has_bf16", lambda: has_bf16(lacks))
    assert training.dtypes_of(asked()) == ["fp32"]
    assert "left out" in capsys.readouterr().out
    assert training.dtypes_of(asked(device="cuda")) == ["fp32", "bf16"]
    monkeypatch.setattr(training, "has_bf16", lambda: has_bf16(has))
    assert training.dtypes_of(asked()) == ["fp32", "bf16"]
    assert training.dtypes_of(asked(small=True)) == ["fp32"]
    assert training.dtypes_of(asked(small=True, dtype="bf16")) == ["bf16"]


def test_a_peer_that_is_not_there_leaves_our_own_figures(monkeypatch, capsys):
    monkeypatch.setattr(training, "find_spec", lambda name: object())
    assert training.peers_of("sft", asked()) == ["defaults", "best"]
    assert training.peers_of("sft", asked(flags="")) == []
    assert training.peers_of("grpo", asked(small=True)) == ["defaults"]
    assert training.peers_of("grpo", asked(small=True, flags="best")) == ["best"]
    assert training.peers_of("ppo", asked()) == []
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    assert training.peers_of("sft", asked()) == []
    assert "TRL is not installed" in capsys.readouterr().out


def test_cells_of_a_cpu_see_no_gpu(tmp_path):
    code = "import json, os, sys; json.dump({'seen': os.environ['CUDA_VISIBLE_DEVICES']}, sys.stdout); print()"
    metrics = tmp_path / "metrics.jsonl"
    cell = watch(
        [sys.executable, "-c", code],
        metrics=metrics,
        lines=1,
        threads=1,
        log=metrics,  # what it prints is its line
        environment=setting("cpu").environment,
    )
    assert cell.steps[0].line == {"seen": ""}
    assert "CUDA_VISIBLE_DEVICES" not in setting("cuda").environment


def test_a_gpu_gets_larger_batches():
    assert setting("cuda").method("dpo").batch == training.CUDA_BATCH * setting("cpu").method("dpo").batch
