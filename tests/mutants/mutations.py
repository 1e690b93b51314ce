"""Bugs that somebody could make, as `mutations.toml` lists them, and the tests of which one must fail then.

Knows nothing of how they are applied.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

LIST = Path(__file__).with_suffix(".toml")


class Mutation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`old` stands in `file` exactly once; with `new` in its place one of `tests` fails."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class _List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tests by a short name, and the bugs; the tests of a bug are short names, or tests."""

    tests: dict[str, tuple[str, ...]]
    mutations: tuple[Mutation, ...]


def _tests_of(one: Mutation) -> Mutation:
    return msgspec.structs.replace(
        one, tests=tuple(test for name in one.tests for test in _list.tests.get(name, [name]))
    )


_list = msgspec.toml.decode(LIST.read_bytes(), type=_List)
MUTATIONS = tuple(map(_tests_of, _list.mutations))
(SEEDS,) = _list.tests["seeds"]
