"""What the `sample` command keeps of a former attempt: the lines that this one would write too.

Beside completions.jsonl lies what its lines depend on, `IDENTITY`: the law they were drawn by, each policy and each
prompt. A line is kept where all three are the same; more completions, policies or prompts may be asked for. No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.engine.config import SampleConfig
from training.engine.errors import SnapshotError
from training.engine.files import LineFile, read_json, write_json
from training.engine.records import canonical_json

LINES, IDENTITY = "completions.jsonl", ".completions.identity.json"


def open_completions(
    out: Path,
    resume: Path | None,
    *,
    config: SampleConfig,
    prompts: Mapping[str, Sequence[Mapping[str, str]]],
    policies: Mapping[str, str],
) -> tuple[list[dict[str, Any]], LineFile]:
    """The lines that are there already, and OUT/completions.jsonl after them.

    Args:
        resume: a former attempt's directory or its completions.jsonl; None: `out` itself.
        prompts: messages by id; `policies`: by name, what says which model it is (its hash, or a server's name).

    Raises:
        SnapshotError: `resume` has no completions.
    """
    target = out / LINES
    source = target if resume is None else resume / LINES if resume.is_dir() else resume
    if resume is not None and not source.is_file():
        raise SnapshotError("holds no completions to go on from", file=str(resume))
    identity = _identity(config, prompts, policies)
    kept = _read_kept(source, identity=identity, completions=config.sampling.completions)
    aside = out / ".completions.partial"
    aside.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in kept), encoding="utf-8")
    # Lines before identity: the former identity beside lines of which the new one keeps a part claims nothing untrue.
    aside.replace(target)
    write_json(out / IDENTITY, identity)
    return kept, LineFile(target, keep_bytes=target.stat().st_size)


def _identity(
    config: SampleConfig, prompts: Mapping[str, Sequence[Mapping[str, str]]], policies: Mapping[str, str]
) -> dict[str, Any]:
    sampling = config.sampling
    return {
        "law": {
            "seed": config.seed,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "stop": list(sampling.stop),
            "max_new_tokens": sampling.max_new_tokens,
            "weights": sampling.weights.value,
        },
        "policies": dict(policies),
        "prompts": {
            name: hashlib.sha256(canonical_json(list(map(dict, messages))).encode()).hexdigest()
            for name, messages in prompts.items()
        },
    }


def _read_kept(path: Path, *, identity: Mapping[str, Any], completions: int) -> list[dict[str, Any]]:
    """The whole lines of a former file whose law, policy and prompt are those of now, each completion once."""
    beside = path.parent / IDENTITY
    former = read_json(beside) if path.is_file() and beside.is_file() else None
    if former is None or former["law"] != identity["law"]:
        return []
    names, ids = (_same(former[part], identity[part]) for part in ("policies", "prompts"))
    kept: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in path.read_bytes().split(b"\n")[:-1]:  # what follows the last newline is a broken line
        try:
            line = json.loads(row)
            key = (line["policy"], line["prompt_id"], line["index"])
            wanted = line["seed"] == identity["law"]["seed"] and key[0] in names and key[1] in ids
            fits = 0 <= key[2] < completions and line["finish"] in ("end", "length")
        except (ValueError, KeyError, TypeError):
            continue
        if wanted and fits:
            kept.setdefault(key, line)
    return list(kept.values())


def _same(former: Mapping[str, str], now: Mapping[str, str]) -> Collection[str]:
    return {name for name, value in now.items() if former.get(name) == value}
