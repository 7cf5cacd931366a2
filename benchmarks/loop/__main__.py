"""python -m benchmarks.loop NAME: run an experiment, and write its result where the page of experiments reads it.

python -m benchmarks.loop                              what there is
python -m benchmarks.loop methods                      run one, on this machine's processor
python -m benchmarks.loop methods --setting full       on a GPU
python -m benchmarks.loop chart RESULT.json --out DIR  its charts as pictures
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.loop import displacement, fewer_votes, human, length_bias, methods, overoptimisation, rounds
from benchmarks.loop.charts import write_charts
from benchmarks.loop.experiment import Experiment, Lab, settings_of
from benchmarks.loop.results import Provenance, Result, Setting, read, write
from benchmarks.loop.shared import NoSharedData, Shared
from benchmarks.loop.steps import Steps
from benchmarks.report import machine
from training.engine.files import directory_hash
from winnow.env import BASE_DIR, read_environment

EXPERIMENTS: dict[str, Experiment] = {
    "methods": methods.EXPERIMENT,
    "rounds": rounds.EXPERIMENT,
    "fewer-votes": fewer_votes.EXPERIMENT,
    "overoptimisation": overoptimisation.EXPERIMENT,
    "displacement": displacement.EXPERIMENT,
    "human": human.EXPERIMENT,
    "length-bias": length_bias.EXPERIMENT,
}
_PACKAGES = ("torch", "transformers", "peft")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say; the exit code."""
    options = _parser().parse_args(arguments)
    if options.name is None:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:20} {experiment.question}")
        return 0
    if options.name == "chart":
        for file in write_charts(read(options.result), options.out):
            print(file)
        return 0
    try:
        result = run(options)
    except NoSharedData as missing:
        print(missing, file=sys.stderr)
        return 2
    for claim in result.claims:
        print(f"{ {True: 'holds', False: 'FAILS', None: 'open '}[claim.holds] }  {claim.claim}: {claim.figure}")
    print(write(result, options.results))
    return 0


def run(options: argparse.Namespace) -> Result:
    """The named experiment, once."""
    setting = Setting(options.setting)
    experiment, settings = EXPERIMENTS[options.name], settings_of(options.name, setting)
    steps = Steps(
        directory=options.out / "steps",
        base=options.base,
        slots=options.slots,
        threads=options.threads,
        on_gpu=setting is Setting.FULL,
    )
    shared = Shared(directory=options.shared, read={})
    seeds = options.seeds or settings["seeds"]
    lab = Lab(steps=steps, shared=shared, settings=settings, seeds=seeds, directory=options.out, name=options.name)
    begun = time.monotonic()
    found = experiment.run(lab)
    return Result(
        experiment=options.name,
        title=experiment.title,
        question=experiment.question,
        setting=setting,
        command=shlex.join(["python", "-m", "benchmarks.loop", options.name, "--setting", setting.value]),
        finished=datetime.now(UTC),
        seconds=round(time.monotonic() - begun, 1),
        seeds=seeds,
        provenance=Provenance(
            commit=_commit(),
            machine=machine(slots=options.slots, threads=options.threads),
            versions={name: version(name) for name in _PACKAGES},
            models={"base": directory_hash(options.base)},
            data=shared.read,
            config=settings,
        ),
        tables=found.tables,
        charts=found.charts,
        claims=found.claims,
        reading=found.reading,
    )


def _parser() -> argparse.ArgumentParser:
    data = Path(read_environment().data_dir)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loop", description="Experiments that prove the loop on real weights."
    )
    commands = parser.add_subparsers(dest="name", metavar="NAME")
    for name, experiment in EXPERIMENTS.items():
        command = commands.add_parser(name, help=experiment.title, description=experiment.question)
        command.add_argument("--setting", choices=[one.value for one in Setting], default=Setting.SMALL.value)
        command.add_argument("--seeds", type=int, nargs="+", help="instead of the config's")
        command.add_argument("--shared", type=Path, default=BASE_DIR.parent / "shared" / "data", help="the shared data")
        command.add_argument(
            "--base", type=Path, default=data / "models" / "smollm2-135m-instruct", help="base model (make model)"
        )
        command.add_argument("--out", type=Path, default=data / "loop", help="steps, so that none is done twice")
        command.add_argument("--results", type=Path, default=data / "experiments", help="where the page looks")
        command.add_argument("--slots", type=int, default=2, help="programs at one time")
        command.add_argument("--threads", type=int, default=1, help="of each")
    chart = commands.add_parser("chart", help="write a result's charts as pictures")
    chart.add_argument("result", type=Path)
    chart.add_argument("--out", type=Path, default=BASE_DIR / "docs" / "images")
    return parser


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 - whichever git the reader has
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
