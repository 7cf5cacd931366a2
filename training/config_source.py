"""What the source of the engine's configs says and a program cannot ask the dataclasses for: texts and bounds.

The engine stays plain Python: a docstring stands under each field, and `require` in `__post_init__` refuses what is out
of bounds. Both are read from the syntax tree, once, so that a form says what the engine does and not what somebody
remembered.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """The least and the greatest number that the engine takes; `excluded` where the bound itself is refused."""

    low: float | None = None
    low_excluded: bool = False
    high: float | None = None
    high_excluded: bool = False


NO_BOUNDS = Bounds()


def summary(cls: type[Any]) -> str:
    """The docstring of a config, or of an enum, on one line."""
    return _one_line(_class(cls)[1])


@cache
def _module(name: str) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    tree = ast.parse(inspect.getsource(importlib.import_module(name)))
    return {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def _class(cls: type[Any]) -> tuple[ast.ClassDef, str]:
    node = _module(cls.__module__)[cls.__name__]
    assert isinstance(node, ast.ClassDef)
    return node, ast.get_docstring(node) or ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def docstrings(cls: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass, or under each member of an enum."""
    body = _class(cls)[0].body
    found: dict[str, str] = {}
    for node, below in itertools.pairwise(body):
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if _is_assign(node) else None
        if isinstance(target, ast.Name) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[target.id] = _one_line(str(below.value.value))
    return found


def _is_assign(node: ast.stmt) -> typing.TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign)


def bounds_of(cls: type[Any]) -> dict[str, Bounds]:
    """The bounds that `__post_init__` requires of each field, whatever the other fields are.

    A check that depends on another field, or on a condition, is no bound: the engine says it when it is broken.
    """
    node, _ = _class(cls)
    module = _module(cls.__module__) | _module("training.engine.sections")
    check = next(
        (item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__post_init__"), None
    )
    found: dict[str, Bounds] = {}
    for name, bounds in _required(check.body if check else [], module):
        old = found.get(name, NO_BOUNDS)
        found[name] = Bounds(
            low=bounds.low if bounds.low is not None else old.low,
            low_excluded=bounds.low_excluded if bounds.low is not None else old.low_excluded,
            high=bounds.high if bounds.high is not None else old.high,
            high_excluded=bounds.high_excluded if bounds.high is not None else old.high_excluded,
        )
    return found


def _required(
    body: list[ast.stmt], module: Mapping[str, ast.ClassDef | ast.FunctionDef]
) -> Iterator[tuple[str, Bounds]]:
    named: dict[str, ast.expr] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named[node.targets[0].id] = node.value
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            for row in node.iter.elts:
                yield from _required([_unrolled(item, node.target, row) for item in node.body], module)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            call, function = node.value, node.value.func.id
            if function != "require":
                called = module.get(function)
                yield from _required(called.body if isinstance(called, ast.FunctionDef) else [], module)
                continue
            condition, name, value = call.args[:3]
            if isinstance(condition, ast.Name):
                condition = named.get(condition.id, condition)
            bounds = _read_bounds(condition, value)
            if bounds is not None and isinstance(name, ast.Constant):
                yield str(name.value), bounds


def _unrolled(node: ast.stmt, target: ast.expr, row: ast.expr) -> ast.stmt:
    """A statement of a loop over a tuple of tuples, with the values of one turn in the place of the names."""
    assert isinstance(target, ast.Tuple) and isinstance(row, ast.Tuple)
    values = {name.id: value for name, value in zip(target.elts, row.elts, strict=True) if isinstance(name, ast.Name)}

    class Put(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            return values.get(name.id, name)

    made = Put().visit(ast.parse(ast.unparse(node)).body[0])
    assert isinstance(made, ast.stmt)
    return made


def _read_bounds(condition: ast.expr, value: ast.expr) -> Bounds | None:
    """Of `low <= value < high`, or of `value is None or …`; None for any other condition."""
    if isinstance(condition, ast.BoolOp) and isinstance(condition.op, ast.Or) and len(condition.values) == 2:
        absent, condition = condition.values
        if not (isinstance(absent, ast.Compare) and isinstance(absent.ops[0], ast.Is) and _same(absent.left, value)):
            return None
    if not isinstance(condition, ast.Compare):
        return None
    sides = [condition.left, *condition.comparators]
    place = next((index for index, side in enumerate(sides) if _same(side, value)), None)
    numbers = [None if index == place else _constant(side) for index, side in enumerate(sides)]
    if place is None or sum(number is None for number in numbers) > 1:
        return None
    bounds: dict[str, Any] = {}
    for index, operator in enumerate(condition.ops):
        left, right = numbers[index], numbers[index + 1]
        is_upper = isinstance(operator, (ast.Lt, ast.LtE)) == (left is None)
        number = right if left is None else left
        end = "high" if is_upper else "low"
        bounds |= {end: number, f"{end}_excluded": isinstance(operator, (ast.Lt, ast.Gt))}
    return Bounds(**bounds)


def _same(one: ast.expr, other: ast.expr) -> bool:
    return ast.dump(one) == ast.dump(other)


def _constant(node: ast.expr) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        base, power = _constant(node.left), _constant(node.right)
        return None if base is None or power is None else float(base**power)
    return None
