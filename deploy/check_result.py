"""The result of one check of `fedmq doctor`: ok, a warning or a problem, with advice."""

from __future__ import annotations

from typing import Literal

import msgspec


class CheckResult(msgspec.Struct, frozen=True):
    """The result of one check; `advice` is "" when there is nothing to do."""

    check: str
    state: Literal["ok", "warning", "problem"]
    found: str
    advice: str = ""


def ok(check: str, found: str) -> CheckResult:
    """Return the result of a check that passed."""
    return CheckResult(check, "ok", found)


def warning(check: str, found: str, advice: str) -> CheckResult:
    """Return the result of a check that found a limitation: it works, but not always or not for all."""
    return CheckResult(check, "warning", found, advice)


def problem(check: str, found: str, advice: str) -> CheckResult:
    """Return the result of a check that failed."""
    return CheckResult(check, "problem", found, advice)
