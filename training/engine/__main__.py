"""The engine's command line. Exit codes and `error.json` are made here, from the exceptions of `errors.py`.

0  result.json says done, stopped …      2  config refused      3  snapshot or model refused      4  diverged
1  a defect, or the machine: out of memory, disk full, a lost GPU, a server that does not answer
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import json
import os
import platform
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.engine.assembling import assemble
from training.engine.config import AnyConfig, ConvertConfig, ConvertModelsConfig, parse_config, to_dict
from training.engine.errors import ConfigError, Diverged, ModelError, SnapshotError
from training.engine.files import write_json
from training.engine.presets import MACHINES, PRESETS, TRAINING, config_for
from training.engine.records import KINDS, PARTS
from training.engine.remote import RemoteError
from training.engine.supervision import StopRun, install

MODULES = {
    "sft": "sft",
    "reward": "reward",
    "dpo": "dpo",
    "kto": "kto",
    "ppo": "ppo",
    "rloo": "rloo",
    "grpo": "rloo",
    "online_dpo": "online",
    "best_of_n": "bestofn",
    "expert_iteration": "bestofn",
    "feedme": "conditioning",
    "binary_conditioning": "conditioning",
    "quark": "quark",
    "sample": "sampling",
    "score": "scoring",
    "judge": "judging",
    "evaluate": "evaluation",
    "serve": "serving",
    "convert": "convert",
}
"""Which module runs a method; its `run(config, out, *, resume, supervision)` is called."""
OTHER_COMMANDS = {
    "sample": "sample completions of prompts",
    "score": "a reward model's scores of given completions",
    "judge": "what a judge behind a server says of given pairs",
    "evaluate": "held-out figures of a policy or of reward models",
    "serve": "keep a policy loaded and answer questions from a directory",
    "convert": "make a safetensors directory of a GGUF file, an adapter or a model",
}
"""Methods that train nothing have a command of their own name; every other is for `run`."""
DESCRIPTIONS = {
    "score": """Score given completions with a reward model.

The smallest config:
  {"method": "score", "models": {"reward": "MODEL_DIR"},
   "data": {"prompts": "prompts.jsonl", "completions": "completions.jsonl"}}
Prompts are {id, prompt: [{role, content}]} lines, completions {prompt_id, index, text, finish} lines as the command
sample writes them. DIR/scores.jsonl gets a line for each, in their order: score is less the mean that the model stored
in training, so 0 is an average completion and a difference of 1 is e : 1. With "features": true the last layer's
states lie in DIR/features.safetensors.""",
    "judge": """Ask a judge behind an OpenAI-compatible server which of two completions is better, in both orders.

The smallest config:
  {"method": "judge", "judge": {"model": "NAME", "server": {"url": "http://127.0.0.1:8000/v1"}},
   "data": {"pairs": "pairs.jsonl"}}
Pairs are {id, prompt: [{role, content}], a, b} lines. DIR/verdicts.jsonl gets a line for each: q is the share of the
two orders in which a wins, ab and ba what was said of the places when a, and when b, came first. DIR/answers.jsonl
holds every answer as it was given; with --resume another attempt's answers are not asked for again.""",
    "evaluate": """Held-out figures of reward models, of a policy, or of both.

The smallest configs, reward models on preferences and a policy beside its reference:
  {"method": "evaluate", "models": {"rewards": ["REWARD_DIR"]}, "data": {"snapshot": "SNAPSHOT_DIR"}}
  {"method": "evaluate", "models": {"policy": "POLICY_DIR", "reference": "SFT_DIR", "rewards": ["REWARD_DIR"]},
   "data": {"snapshot": "SNAPSHOT_DIR"}, "evaluate": {"prompts": 64, "samples": 4}}
or, without a sample, how alike a policy finds the two completions of each preference that it may be trained on (CHES):
  {"method": "evaluate", "models": {"policy": "POLICY_DIR"},
   "data": {"snapshot": "SNAPSHOT_DIR", "part": "train"}, "evaluate": {"similarity": true}}
DIR/result.json holds the figures with their 95 % intervals: accuracy, calibration, agreement of several reward models;
KL to the reference, scores, win rate as it stands and at equal length, and with more than one sample a prompt the
expected best of n. DIR/samples.jsonl holds what was written: read it. DIR/similarity.jsonl has a line a preference.""",
}
"""What `--help` says of a command beyond its line."""
FORMER = ("config.json", "environment.json", "result.json")
EXIT_CODES = {"config": 2, "data": 3, "diverged": 4, "memory": 1, "disk": 1, "network": 1, "device": 1, "defect": 1}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FAILING = frozenset({errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO})
_DEVICE_WORDS = (
    "CUDA error",
    "cuDNN error",
    "CUDNN_STATUS",
    "CUBLAS_STATUS",
    "NCCL error",
    "No CUDA GPUs are available",
)


def main(arguments: Sequence[str]) -> int:
    options = _parse_arguments(arguments)
    if options.command == "snapshot":
        return _snapshot(options)
    if options.command == "defaults":
        return _defaults(options)
    options.out.mkdir(parents=True, exist_ok=True)
    # PEFT asks Transformers by a name that will be gone one day: nothing that whoever reads a run's log could mend.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # torchrun's name for which of several processes this is: the first one writes for all.
    if os.environ.get("RANK", "0") == "0":
        return _guarded(options, notes=options.out)
    with tempfile.TemporaryDirectory(prefix="winnow-rank-") as notes:
        return _guarded(options, notes=Path(notes))


def _guarded(options: argparse.Namespace, *, notes: Path) -> int:
    """Run the command; whatever ends it becomes an exit code, and a note beside the result."""
    # A refused attempt must not take the place of what a former one on this directory has left.
    former = {name: (notes / name).read_bytes() for name in FORMER if (notes / name).is_file()}
    for name in ("result.json", "error.json"):
        (notes / name).unlink(missing_ok=True)
    supervision = install(supervised=options.supervised, lease_seconds=options.lease)
    try:
        config = _read_config(options)
        write_json(notes / "config.json", to_dict(config))
        # cuBLAS repeats its sums with workspaces of fixed size only, and reads this once, as it is loaded.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Imported after the config was checked: torch takes seconds to load, and a bad key should not.
        module = importlib.import_module(f"training.engine.{MODULES[config.method]}")
        write_json(notes / "environment.json", _environment())
        module.run(config, options.out, resume=options.resume, supervision=supervision)
    except StopRun:
        write_json(notes / "result.json", _bare_result("stopped", "a stop was asked for before the first step"))
        return 0
    except Exception as error:  # the last line of defence: everything ends in error.json and a code
        kind = _kind(error)
        with contextlib.suppress(OSError):  # a full disk must not hide why the run has ended
            if kind == "defect":
                traceback.print_exc()
            sys.stderr.write("\n".join([f"{kind}: {error}", *getattr(error, "__notes__", [])]) + "\n")
        with contextlib.suppress(OSError):
            _leave_notes(notes, kind=kind, message=str(error) or type(error).__name__, former=former)
        return EXIT_CODES[kind]
    return 0


def _leave_notes(notes: Path, *, kind: str, message: str, former: Mapping[str, bytes]) -> None:
    write_json(notes / "error.json", {"kind": kind, "message": message})
    if kind in ("config", "data") and "result.json" in former:
        for name, content in former.items():
            (notes / name).write_bytes(content)
    elif not (notes / "result.json").exists():
        write_json(notes / "result.json", _bare_result("failed", message))


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.engine", description="Train, sample and convert models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in {"run": "train by a config", **OTHER_COMMANDS}.items():
        command = commands.add_parser(
            name,
            help=about,
            description=DESCRIPTIONS.get(name, about),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        source = "config file, or the source itself" if name == "convert" else "config file"
        command.add_argument("config", type=Path, metavar="CONFIG", help=source)
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory for everything written")
        resumed = "checkpoint to go on from" if name == "run" else "an earlier attempt's output to go on from"
        command.add_argument("--resume", type=Path, metavar="PATH", help=resumed)
        command.add_argument(
            "--supervised", action="store_true", help="stdin is the supervisor's pipe; its end or silence kills"
        )
        command.add_argument(
            "--lease", type=float, default=60.0, metavar="SECONDS", help="silence that kills is 5 s shorter (60)"
        )
        if name == "convert":
            command.add_argument("--base", type=Path, metavar="DIR", help="model that an adapter was trained on")
            command.add_argument("--name", metavar="NAME", help="name of the model (that of the source)")
    _add_snapshot(commands)
    _add_defaults(commands)
    return parser.parse_args(arguments)


def _add_snapshot(commands: Any) -> None:
    about = "check, group and split a JSON Lines file into a snapshot directory"
    command = commands.add_parser(
        "snapshot",
        help=about,
        description=f"{about[0].upper()}{about[1:]}. Lines: prompt; prompt, completion (or messages); prompt, chosen, "
        "rejected; prompt, completions, ranking; prompt, completion, desirable. A text is plain or a list of turns.",
    )
    command.add_argument("source", type=Path, metavar="FILE.jsonl", help="one JSON object a line")
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory that is made; none may be there"
    )
    command.add_argument("--kind", choices=KINDS, help="what the lines are (told from their keys)")
    command.add_argument("--seed", type=int, default=1, help="of the draw into parts (1)")
    command.add_argument(
        "--shares",
        type=_shares,
        default=(0.8, 0.1, 0.1),
        metavar="A,B,C",
        help="of train, validation and test, by prompt group (0.8,0.1,0.1); not used where lines have a split",
    )


def _add_defaults(commands: Any) -> None:
    about = "print the config of a method with all its defaults, to be edited and run"
    command = commands.add_parser("defaults", help=about, description=f"{about[0].upper()}{about[1:]}.")
    command.add_argument(
        "method", choices=[*TRAINING, *PRESETS], metavar="METHOD", help=", ".join([*TRAINING, *PRESETS])
    )
    command.add_argument("--base", type=Path, required=True, metavar="DIR", help="model that training starts from")
    command.add_argument("--snapshot", type=Path, required=True, metavar="DIR", help="snapshot to train on")
    command.add_argument(
        "--reward", type=Path, action="append", default=[], metavar="DIR", help="reward model; may be given again"
    )
    command.add_argument(
        "--machine", choices=list(MACHINES), default="laptop CPU", help="what precision and passes fit (laptop CPU)"
    )
    command.add_argument("--all-weights", action="store_true", help="train all weights, not a LoRA adapter")


def _shares(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != len(PARTS) or min(found) < 0 or abs(sum(found) - 1) > 1e-9:
        raise argparse.ArgumentTypeError(f"needs three numbers that add up to 1, such as 0.8,0.1,0.1, got {text!r}")
    return found


def _snapshot(options: argparse.Namespace) -> int:
    """Has no config and trains nothing, so it leaves nothing behind but the snapshot."""
    try:
        manifest = assemble(options.source, options.out, kind=options.kind, seed=options.seed, shares=options.shares)
    except SnapshotError as error:
        sys.stderr.write(f"data: {error}\n")
        return EXIT_CODES["data"]
    counts = ", ".join(f"{part} {manifest.counts[part]}" for part in (*PARTS, "total"))
    sys.stdout.write(f"{options.out}: {manifest.kind}, {counts} lines\ncontent_hash {manifest.content_hash}\n")
    return 0


def _read_config(options: argparse.Namespace) -> AnyConfig:
    command, path = options.command, options.config
    if command == "convert" and path.suffix != ".json":
        base = None if options.base is None else str(options.base)
        return ConvertConfig(models=ConvertModelsConfig(source=str(path), base=base), name=options.name or path.stem)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(key="", value=str(path), message=f"{path} is no readable JSON file: {error}") from None
    config = parse_config(raw)
    wanted = config.method if config.method in OTHER_COMMANDS else "run"
    if command != wanted:
        raise ConfigError(
            key="method", value=config.method, message=f"method {config.method} is not for the command {command}"
        )
    return config


def _defaults(options: argparse.Namespace) -> int:
    try:
        config = config_for(
            options.method,
            base=options.base,
            snapshot=options.snapshot,
            rewards=options.reward,
            machine=options.machine,
            adapter=None if options.all_weights else "lora",
        )
    except (ConfigError, ModelError) as error:
        sys.stderr.write(f"{_kind(error)}: {error}\n")
        return EXIT_CODES[_kind(error)]
    json.dump(config, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0


def _environment() -> dict[str, Any]:
    """What a repeat needs besides config, data and model."""
    import peft  # noqa: PLC0415 - as above
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "cublas_workspace_config": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


def _kind(error: BaseException) -> str:
    expected: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        (ConfigError, "config"),
        ((SnapshotError, ModelError), "data"),
        (Diverged, "diverged"),
        (MemoryError, "memory"),
    ]
    if isinstance(error, RemoteError) and error.is_passing:
        return "network"
    for types, kind in expected:
        if isinstance(error, types):
            return kind
    if isinstance(error, OSError):
        return "disk" if error.errno in _FULL | _FAILING else "memory" if error.errno == errno.ENOMEM else "defect"
    return _kind_by_words(error)


def _kind_by_words(error: BaseException) -> str:
    """What torch and safetensors raise has no field to tell by, and torch must not be imported for its names."""
    said = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said:
        return "memory"
    if "No space left on device" in said:  # safetensors writes in Rust
        return "disk"
    if "device-side assert" in said:  # an index out of range: ours
        return "defect"
    if type(error).__name__ in ("AcceleratorError", "DistBackendError") or any(word in said for word in _DEVICE_WORDS):
        return "memory" if "out of memory" in said or "ALLOC_FAILED" in said else "device"
    return "defect"


def _bare_result(status: str, reason: str) -> dict[str, Any]:
    """For an end before or outside a method's loop, which writes a fuller one."""
    return {
        "status": status,
        "reason": reason,
        "step": 0,
        "checkpoints": {"best": None, "last": None},
        "metrics": {},
        "alarms": [],
        "lineage": {"snapshot": None, "models": {}},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
