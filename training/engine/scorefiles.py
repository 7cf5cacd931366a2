"""The files of the `score` command: completions in, scores and features out, and what is kept of a former attempt.

Knows the layout of the lines; knows nothing of how they are scored. K completions, D hidden size.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from torch import Tensor

from training.engine.errors import SnapshotError
from training.engine.files import LineFile, read_json, write_json
from training.engine.packing import Sharing
from training.engine.pairs import prompt_of
from training.engine.sampling import read_prompts
from training.engine.text import Text

IDENTITY = ".scores.identity.json"
RAW = ".features.raw"
"""The features of the lines so far, fp32, one after the other; it can grow, which a safetensors file cannot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreLine:
    """A completion of the input file, and what a line of the output repeats of it."""

    key: dict[str, Any]
    finish: str
    sharing: Sharing

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return self.sharing.positions


@dataclass(kw_only=True, slots=True)
class ScoreOutput:
    """`scores.jsonl`, the features beside it, and what this attempt has counted."""

    lines: LineFile
    features: Any | None
    kept: int
    made: int = 0
    tokens: int = 0
    total: float = 0.0
    started_at: float = field(default_factory=time.monotonic)

    def write(self, line: ScoreLine, raw: float, state: Tensor, *, mean: float) -> None:
        (completion,) = line.sharing.completions
        if self.features is not None:  # before its line, so that a line always has its features
            self.features.write(state.cpu().numpy().astype("<f4").tobytes())
            self.features.flush()
        score = {"score": raw - mean, "score_raw": raw, "tokens": len(completion), "finish": line.finish}
        self.lines.write({**line.key, **score})
        self.made += 1
        self.tokens += line.sharing.tokens
        self.total += raw - mean

    def close(self) -> None:
        self.lines.close()
        if self.features is not None:
            self.features.close()

    def values(self) -> dict[str, float]:
        if not self.made:
            return {}
        speed = self.tokens / max(time.monotonic() - self.started_at, 1e-9)
        return {
            "rollout/score": self.total / self.made,
            "rollout/samples": float(self.made),
            "speed/tokens_per_second": speed,
        }


def read_completions(prompts_file: Path, completions_file: Path, *, text: Text) -> Iterator[ScoreLine]:
    """The completions of {prompt_id, index, text, finish} lines in their order, tokenised.

    Raises:
        SnapshotError: a line of either file that does not fit, by file and line.
    """
    prompts = {p.id: prompt_of(p.messages, text=text, id=f"prompt {p.id!r}") for p in read_prompts(prompts_file)}
    name = completions_file.name
    try:
        rows = completions_file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # as in `read_prompts`
    except (OSError, UnicodeDecodeError) as error:
        raise SnapshotError(f"cannot be read: {error}", file=name) from error
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        line = _completion_line(row, file=name, number=number)
        if line["prompt_id"] not in prompts:
            raise SnapshotError(f"prompt {line['prompt_id']!r} is not there", file=name, line=number)
        key: dict[str, Any] = {part: line[part] for part in ("policy", "prompt_id", "index") if part in line}
        if (spelled := json.dumps(key)) in seen:
            raise SnapshotError(f"{spelled} was there before", file=name, line=number)
        seen.add(spelled)
        finish = line.get("finish", "end")
        ids = tuple(text.completion_ids(line["text"], finished=finish == "end"))
        yield ScoreLine(key=key, finish=finish, sharing=Sharing(prompt=prompts[line["prompt_id"]], completions=(ids,)))


def _completion_line(row: str, *, file: str, number: int) -> dict[str, Any]:
    try:
        line = json.loads(row)
    except ValueError as error:
        raise SnapshotError(f"not JSON: {error}", file=file, line=number) from error
    fits = (
        isinstance(line, dict)
        and isinstance(line.get("prompt_id"), str)
        and type(line.get("index")) is int
        and isinstance(line.get("text"), str)
        and line.get("finish", "end") in ("end", "length")
        and isinstance(line.get("policy", ""), str)
    )
    if not fits:
        raise SnapshotError('must hold prompt_id, index, text and finish ("end" or "length")', file=file, line=number)
    return dict(line)


def open_output(
    out: Path,
    *,
    former: Path,
    identity: Mapping[str, str],
    lines: Sequence[ScoreLine],
    width: int,
    features: bool,
) -> ScoreOutput:
    """Open the files of `out` after those lines of a former scores file that this attempt would write too.

    Args:
        identity: hashes of everything that the scores depend on; a former file of another identity is not used.
        width: D, of the features.
    """
    target, raw = out / "scores.jsonl", out / RAW
    kept = _read_kept(former, identity=identity, lines=lines)
    if features:
        former_raw = former.parent / RAW
        there = former_raw.stat().st_size // (4 * width) if former_raw.is_file() else 0
        kept = kept[:there]
        raw.write_bytes(former_raw.read_bytes()[: 4 * width * len(kept)] if kept else b"")
    aside = out / ".scores.partial"
    aside.write_bytes(b"".join(kept))
    aside.replace(target)
    write_json(out / IDENTITY, identity)
    return ScoreOutput(
        lines=LineFile(target, keep_bytes=target.stat().st_size),
        features=raw.open("ab") if features else None,
        kept=len(kept),
    )


def _read_kept(path: Path, *, identity: Mapping[str, str], lines: Sequence[ScoreLine]) -> list[bytes]:
    """The whole first lines of a former scores file that belong to the same model and input, as they stand."""
    beside = path.parent / IDENTITY
    if not path.is_file() or not beside.is_file() or read_json(beside) != identity:
        return []
    kept: list[bytes] = []
    for row, line in zip(path.read_bytes().split(b"\n")[:-1], lines, strict=False):  # after the last newline: broken
        with contextlib.suppress(ValueError, AttributeError):
            stored = json.loads(row)
            if line.key.items() <= stored.items() and "score" in stored:
                kept.append(row + b"\n")
                continue
        break
    return kept


def write_features(out: Path, lines: Sequence[ScoreLine], *, width: int) -> None:
    """Once all lines are there: `features.safetensors` [K, D] fp32, and its index `features.jsonl`."""
    raw, target = out / RAW, out / "features.safetensors"
    features = np.fromfile(raw, dtype="<f4").reshape(-1, width)  # [K, D]
    aside = out / ".features.safetensors.partial"
    save_file({"features": features}, aside)
    aside.chmod(0o644)
    aside.replace(target)
    index = out / ".features.jsonl.partial"
    rows = (json.dumps({"row": row, **line.key}, ensure_ascii=False) + "\n" for row, line in enumerate(lines))
    index.write_text("".join(rows), encoding="utf-8")
    index.replace(out / "features.jsonl")
    raw.unlink()
