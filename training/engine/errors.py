"""The failures that the engine expects; each has an exit code and a kind in `error.json` (`__main__.py`).

They can be pickled, so that a rank's failure reaches the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def _made_again(kind: type[Exception], arguments: dict[str, Any]) -> Exception:
    return kind(**arguments)


class ConfigError(Exception):
    """A config that must not run: names the dotted key and the value that was refused (exit 2)."""

    def __init__(self, *, key: str, value: object, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.value = value
        self.message = message

    def __reduce__(self) -> Any:
        return _made_again, (type(self), {"key": self.key, "value": self.value, "message": self.message})


class SnapshotError(Exception):
    """A snapshot or another data file that does not verify: names the file and, where it can, the line (exit 3)."""

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        place = "" if file is None else f"{file}: " if line is None else f"{file}, line {line}: "
        super().__init__(place + message)
        self.file = file
        self.line = line
        self._message = message

    def __reduce__(self) -> Any:
        return _made_again, (type(self), {"message": self._message, "file": self.file, "line": self.line})


class ModelError(Exception):
    """A model, tokenizer or checkpoint that is refused: names the file or the tensor (exit 3)."""


class Diverged(Exception):
    """A value that is not finite, found before the optimizer step: nothing bad has been saved (exit 4)."""

    def __init__(self, *, metric: str, value: float, step: int, examples: Sequence[str]) -> None:
        super().__init__(f"{metric} is {value} at step {step}")
        # For the log, as `result.json` has them too: what a person is told first needs no ids.
        self.add_note("examples: " + (", ".join(examples[:4]) + (" …" if len(examples) > 4 else "") or "unknown"))
        self.metric = metric
        self.value = value
        self.step = step
        self.examples = tuple(examples)

    def __reduce__(self) -> Any:
        arguments = {"metric": self.metric, "value": self.value, "step": self.step, "examples": self.examples}
        return _made_again, (type(self), arguments)
