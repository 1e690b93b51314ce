"""What a check found: fine, odd or broken, and what to do about it. Knows nothing of the checks."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """What one check found; `advice` is "" when there is nothing to do."""

    check: str
    state: Literal["ok", "warning", "problem"]
    found: str
    advice: str = ""


def fine(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def odd(check: str, found: str, advice: str) -> Finding:
    """It works, but not always or not for all."""
    return Finding(check, "warning", found, advice)


def broken(check: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check, "problem", found, advice)
