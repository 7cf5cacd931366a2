"""What a model directory must be: safetensors and JSON, nothing that could run code. Read without loading weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotation.errors import DomainError

_REFUSED_SUFFIXES = frozenset({".py", ".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".h5", ".msgpack"})
_MOST_HEADER = 100_000_000  # bytes, the format's own limit


class NoModel(DomainError):
    """There is no model where one was named."""

    code = "unknown_model"


class RefusedModel(DomainError):
    """The directory holds something that a model must not hold."""

    code = "refused_model"


def check_directory(directory: Path) -> None:
    """Refuse a directory that is no model or that holds code.

    Raises:
        NoModel, RefusedModel: naming the file.
    """
    if not (directory / "config.json").is_file():
        raise NoModel(f"path: {directory} is no model directory: config.json is missing")
    held = list(files(directory))
    refused = next((file for file in held if file.suffix.lower() in _REFUSED_SUFFIXES), None)
    if refused is not None:
        raise RefusedModel(f"path: {refused.name} is refused: a model directory holds safetensors and JSON, never code")
    if not any(file.suffix == ".safetensors" for file in held):
        raise NoModel(f"path: {directory} holds no .safetensors file")
    for file in directory.glob("*config.json"):
        if _mentions(_read_json(file), "auto_map"):
            raise RefusedModel(f"path: {file.name} asks for code of its own (auto_map), which is never run")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise RefusedModel(f"path: {file.name} is not JSON") from None


def count_parameters(directory: Path) -> int:
    """Elements of all tensors, read from the headers of the safetensors files."""
    total = 0
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > _MOST_HEADER:
                raise RefusedModel(f"path: {file.name} is no safetensors file")
            raw = handle.read(length)
        try:
            tensors = [tensor for name, tensor in json.loads(raw).items() if name != "__metadata__"]
            total += sum(math.prod(tensor["shape"]) for tensor in tensors)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RefusedModel(f"path: {file.name} is no safetensors file") from None
    return total


def files(directory: Path) -> Iterator[Path]:
    """The files of a model directory, in order of their names."""
    return (file for file in sorted(directory.rglob("*")) if file.is_file())


def is_reward_model(directory: Path) -> bool:
    """Whether the model gives scores instead of text, by what its config says."""
    architectures = _read_json(directory / "config.json").get("architectures") or []
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)


def _mentions(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_mentions(item, key) for item in value.values())
    return isinstance(value, list) and any(_mentions(item, key) for item in value)
