"""Planted bugs: read `mutations.toml` and find the place of each in the code."""

from __future__ import annotations

import ast
import re
from functools import cached_property
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_suffix(".toml")


class Mutation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """A planted bug: `pattern` occurs once inside `symbol` of `file`; with `new` in its place one of `tests` fails."""

    what: str
    file: str
    symbol: str
    pattern: str
    new: str
    tests: tuple[str, ...]

    @cached_property
    def mutated(self) -> str:
        """The source of `file` with the bug in it.

        Raises:
            ValueError: the file, the symbol or a test does not exist, the pattern does not occur exactly once, or the
                result is no valid Python.
        """
        if not (ROOT / self.file).exists():
            raise ValueError(f"{self.what}: expected {self.symbol} in {self.file}, got no such file")
        source = (ROOT / self.file).read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        node = _find_symbol(ast.parse(source), self.symbol)
        first, last = (1, 0) if node is None else (node.lineno, node.end_lineno or 0)
        before, inside, after = ("".join(part) for part in (lines[: first - 1], lines[first - 1 : last], lines[last:]))
        pattern = re.compile(r"\s+".join(map(re.escape, re.split(r"\s+", self.pattern))))
        count = len(pattern.findall(inside))
        if count != 1:
            where = f"{self.symbol} of {self.file}" if node is not None else f"{self.file}, which has no {self.symbol}"
            raise ValueError(f"{self.what}: expected 1 match of {self.pattern!r} in {where}, got {count}")
        mutated = before + pattern.sub(lambda _: self.new, inside) + after
        try:
            ast.parse(mutated)
        except SyntaxError as error:
            raise ValueError(f"{self.what}: {self.new!r} in {self.symbol} of {self.file}: {error}") from None
        if missing := [test for test in self.tests if not _exists(test)]:
            raise ValueError(f"{self.what}: expected existing tests, got {', '.join(missing)}")
        return mutated


class _List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Groups of tests by name, and the bugs; `tests` of a bug are names of groups, or tests."""

    tests: dict[str, tuple[str, ...]]
    mutations: tuple[Mutation, ...]


def _find_symbol(tree: ast.AST, symbol: str) -> ast.stmt | None:
    """Return the class, function or assignment of a dotted name, or None."""
    node = tree
    for name in symbol.split("."):
        node = next((child for child in getattr(node, "body", []) if name in _names(child)), None)
    return node


def _names(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _exists(test: str) -> bool:
    file, _, function = test.partition("::")
    return (ROOT / file).exists() and f"def {function}" in (ROOT / file).read_text(encoding="utf-8")


def _tests_of(one: Mutation) -> Mutation:
    return msgspec.structs.replace(
        one, tests=tuple(test for name in one.tests for test in _list.tests.get(name, [name]))
    )


_list = msgspec.toml.decode(LIST.read_bytes(), type=_List)
MUTATIONS = tuple(map(_tests_of, _list.mutations))
(SEEDS,) = _list.tests["seeds"]
