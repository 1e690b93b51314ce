"""One name has one meaning: no two modules define a public class or function of the same name."""

from __future__ import annotations

from names import SHARED_NAMES, repeated_names


def test_public_names_are_defined_once_or_justified() -> None:
    repeated = repeated_names()
    assert {name: modules for name, modules in repeated.items() if name not in SHARED_NAMES} == {}
    assert set(SHARED_NAMES) <= set(repeated), "remove the names that are defined once"
