"""JSON objects as frozen dataclasses and back: unknown keys refused, types checked, every error with its dotted key.

Knows no option by name; those are in `config.py`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, TypeVar, cast

from training.engine.errors import ConfigError

T = TypeVar("T")


def plain(value: object) -> object:
    """Enums as their values, tuples as lists."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def build(cls: type[T], raw: object, *, prefix: str) -> T:
    """One dataclass from one JSON object; `prefix` is the dotted path to it, with its dot."""
    if not isinstance(raw, Mapping):
        key = prefix.rstrip(".")
        raise ConfigError(key=key, value=raw, message=f"{key} must be an object, got {show(raw)}")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cast(Any, cls))}
    for name, value in raw.items():
        if name not in fields:
            raise ConfigError(
                key=f"{prefix}{name}",
                value=value,
                message=f"unknown key {prefix}{name} (value {show(value)}); known here: {', '.join(fields)}",
            )
    values: dict[str, object] = {}
    for name, item in fields.items():
        if name in raw:
            values[name] = _convert(hints[name], raw[name], key=f"{prefix}{name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ConfigError(key=f"{prefix}{name}", value=None, message=f"{prefix}{name} is required")
    try:
        return cls(**values)
    except ConfigError as error:  # from a __post_init__, which knows its own field names only
        raise ConfigError(key=prefix + error.key, value=error.value, message=prefix + error.message) from None


def _convert(hint: Any, value: object, *, key: str) -> object:
    """A JSON value as the type of its field; never a silent conversion but int → float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:  # the only unions are `X | None`
        if value is None:
            return None
        return _convert(next(kind for kind in arguments if kind is not type(None)), value, key=key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(key, value, "a list")
        return tuple(_convert(arguments[0], item, key=f"{key}.{index}") for index, item in enumerate(value))
    if origin is Literal:
        if value not in arguments:
            raise _wrong_type(key, value, f"one of {', '.join(arguments)}")
        return value
    if dataclasses.is_dataclass(hint):
        return build(cast(type[object], hint), value, prefix=f"{key}.")
    return _convert_scalar(hint, value, key=key)


def _convert_scalar(hint: type, value: object, *, key: str) -> object:
    if issubclass(hint, StrEnum):
        if not isinstance(value, str) or value not in list(hint):
            raise _wrong_type(key, value, f"one of {', '.join(hint)}")
        return hint(value)
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _wrong_type(key, value, "a finite number")
        return float(value)
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(key, value, "a whole number")
        return value
    if not isinstance(value, hint):
        raise _wrong_type(key, value, {str: "a text", bool: "true or false"}[hint])
    if isinstance(value, str) and "\0" in value:
        raise _wrong_type(key, value, "a text without NUL")
    return value


def _wrong_type(key: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(key=key, value=value, message=f"{key} must be {wanted}, got {show(value)}")


def require(ok: bool, name: str, value: object, message: str) -> None:
    """For `__post_init__`: `build` adds the path of the section."""
    if not ok:
        raise ConfigError(key=name, value=value, message=f"{name} {message}, got {show(value)}")


def show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
