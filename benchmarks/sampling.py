"""`python -m benchmarks.sampling --json [--small] [--rows 'NAME;…']`: our decoder beside transformers `generate`.

SmolLM2-135M-Instruct on real prompts of mixed length, temperature 1, real end tokens, 128 new tokens at most. Each run
has a process of its own, and the sides take turns. A figure is new tokens by CPU-second, the median of its turns, since
wall time on a shared machine moves twofold; lines before the last hold both, and the load. A token counts up to and
with the end token of its completion: what a side computes for a completion that has ended counts for nothing.

`--small` leaves out the rows that have no target. On a machine with other work take
`--threads 1` and read the ratios only: two threads that wait for each other there spend most of their time so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from benchmarks.report import Row, faster, shorter, show
from benchmarks.sampling_cells import Cell, Timed, choose_prompts
from training.engine.text import load_text

ROOT = Path(__file__).resolve().parents[1]
PEER = "transformers generate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """A row: both sides sample `batches`, ours with weights held as `weights`, the peer's model in `peer_weights`."""

    what: str
    batches: tuple[tuple[tuple[int, ...], ...], ...]
    completions: int = 1
    target: float | None = None
    weights: str = "fp32"
    peer_weights: str = "fp32"

    def cell(self, side: str, *, seed: int, new_tokens: int, threads: int) -> Cell:
        return Cell(
            side=side,
            batches=self.batches,
            completions=self.completions,
            new_tokens=new_tokens,
            temperature=1.0,
            weights=self.weights if side == "ours" else self.peer_weights,
            seed=seed,
            threads=threads,
        )


def contests(prompts: Sequence[tuple[int, ...]]) -> list[Contest]:
    """The rows by name; targets from ENGINE 7 and the floor of 2 for 32 prompts."""
    all_of_them = (tuple(prompts),)
    median = sorted(prompts, key=len)[len(prompts) // 2]
    return [
        Contest(what="32 prompts", batches=all_of_them, target=2.0),
        Contest(what="8 completions of one prompt", batches=((median,),), completions=8, target=3.0),
        Contest(what="8 prompts", batches=(tuple(prompts[:8]),), target=2.0),
        Contest(what="1 prompt", batches=((prompts[0],), (prompts[1],)), target=1.5),
        Contest(what="32 prompts, bf16", batches=all_of_them, weights="bf16", peer_weights="bf16"),
        Contest(what="32 prompts, int8", batches=all_of_them, weights="int8"),
    ]


def in_a_process(cell: Cell, model: Path) -> Timed:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sampling_cells"],
        input=json.dumps({"cell": asdict(cell), "model": str(model)}),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(cell.threads), "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        raise SystemExit(f"{cell.side} failed:\n{done.stderr[-2000:]}")
    return Timed(**json.loads(done.stdout.splitlines()[-1]))


def compare(contest: Contest, *, model: Path, repeats: int, new_tokens: int, threads: int) -> list[Row]:
    turns: dict[str, list[Timed]] = {"ours": [], PEER: []}
    for repeat in range(repeats):
        for side, timed in turns.items():
            cell = contest.cell(side, seed=repeat, new_tokens=new_tokens, threads=threads)
            timed.append(in_a_process(cell, model))
            print(f"  {contest.what} · {side} · {_told(timed[-1])}", flush=True)
    by_cpu = {side: [t.tokens / t.cpu_seconds for t in timed] for side, timed in turns.items()}
    by_wall = {side: [t.tokens / t.wall_seconds for t in timed] for side, timed in turns.items()}
    for unit, rates in (("CPU-second", by_cpu), ("second", by_wall)):
        ratios = [ours / peer for ours, peer in zip(*rates.values(), strict=True)]
        print(
            f"{contest.what}: ratio by {unit} {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
        )
    rate = faster(
        contest.what,
        "tokens/CPU-second",
        statistics.median(by_cpu["ours"]),
        peer=statistics.median(by_cpu[PEER]),
        peer_name=f"{PEER}, {contest.peer_weights}",
        target=contest.target or 0.0,
    )
    memory = shorter(
        f"{contest.what}, memory",
        "MiB",
        statistics.median(t.peak_mib for t in turns["ours"]),
        peer=statistics.median(t.peak_mib for t in turns[PEER]),
        peer_name=f"{PEER}, {contest.peer_weights}",
        target=0.0,
    )
    return [row if row.target else replace(row, target=None, ok=True) for row in (rate, memory)]


def same_tokens(prompts: Sequence[tuple[int, ...]], *, model: Path, new_tokens: int, threads: int) -> Row:
    """Completions at temperature 0 that are the peer's to the last token; near ties may part."""
    cell = Contest(what="greedy", batches=(tuple(prompts),)).cell(
        "ours", seed=0, new_tokens=new_tokens, threads=threads
    )
    both = [in_a_process(replace(cell, side=side, temperature=0.0), model).ids for side in ("ours", PEER)]
    parted = []
    for number, (ours, peer) in enumerate(zip(*both, strict=True)):
        if ours != peer:
            at = next(
                (i for i, (a, b) in enumerate(zip(ours, peer, strict=False)) if a != b), min(len(ours), len(peer))
            )
            parted.append(f"prompt {number} after {at} tokens")
    agreed = len(prompts) - len(parted)
    print(f"greedy: {agreed} of {len(prompts)} completions agree to the last token; parted: {parted or 'none'}")
    return Row(
        what="same tokens at temperature 0", unit="completions", ours=agreed, peer=len(prompts), peer_name="asked for",
        ratio=round(agreed / len(prompts), 3), target=0.9, ok=agreed >= 0.9 * len(prompts),
    )  # fmt: skip


def _told(timed: Timed) -> str:
    return (
        f"{timed.tokens} tokens (longest {timed.longest}), {timed.wall_seconds:.1f} s, {timed.cpu_seconds:.1f} CPU-s, "
        f"{timed.tokens / timed.wall_seconds:.1f} tok/s, {timed.tokens / timed.cpu_seconds:.1f} tok/CPU-s, "
        f"peak {timed.peak_mib:.0f} MiB, load {timed.load:.1f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", default="", help="names of rows, separated by semicolons; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    data = Path(os.environ.get("WINNOW_TEST_DATA", ROOT.parent / "shared" / "data"))
    model = Path(os.environ.get("WINNOW_TEST_MODEL", ROOT / "var" / "models" / "smollm2-135m-instruct"))
    for path, name in ((data / "prompts.jsonl", "WINNOW_TEST_DATA"), (model / "config.json", "WINNOW_TEST_MODEL")):
        if not path.is_file():
            print(f"skipped: no {path} (set {name})")
            return int(os.environ.get("WINNOW_REQUIRE_SERVICES") == "1")
    prompts = choose_prompts(32, text=load_text(model), data=data)
    print(f"prompts: {sum(map(len, prompts))} tokens, from {min(map(len, prompts))} to {max(map(len, prompts))}")
    wanted = [contest for contest in contests(prompts) if _asked(contest, options.rows, small=options.small)]
    rows = [
        row
        for contest in wanted
        for row in compare(
            contest,
            model=model,
            repeats=options.repeats,
            new_tokens=options.new_tokens,
            threads=options.threads,
        )
    ]
    if not options.rows or "same tokens" in options.rows:
        rows.append(same_tokens(prompts[:8], model=model, new_tokens=options.new_tokens, threads=options.threads))
    show(
        "sampling",
        rows,
        as_json=options.json,
        threads=options.threads,
        torch=version("torch"),
        transformers=version("transformers"),
    )
    return 0 if all(row.ok for row in rows) else 1


def _asked(contest: Contest, rows: str, *, small: bool) -> bool:
    if rows:
        return contest.what in rows.split(";")
    return not small or contest.target is not None


if __name__ == "__main__":
    sys.exit(main())
