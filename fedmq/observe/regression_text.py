"""What a run found as text for a terminal of 80 columns: a regression and remarks in words, or importances."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fedmq.algorithms.findings import Coefficient, Findings
from fedmq.runtime.printable import printable

WIDTH = 80
EXPONENT_MAX = 700.0  # exp of more overflows
NAMES_SHOWN_MAX = 8
IMPORTANCES_SHOWN_MAX = 10
FAMILIES = {"values": "Linear regression", "classes": "Logistic regression", "counts": "Poisson regression"}
FITS = (("rows", "rows"), ("rounds", "rounds"), ("deviance", "deviance"), ("aic", "AIC"))


def regression_lines(findings: Findings) -> list[str]:
    """Return the coefficients of a run of `newton` or `ridge`, each line at most 80 characters but for long names."""
    if not findings.coefficients:
        return list(_of_private_run(findings))
    figures = findings.figures
    family = FAMILIES.get(str(figures.get("family")))
    lines = ["", *([_heading(findings, family)] if family else [])]
    fit = [f"{shown} {_exact(figures[key])}" for key, shown in FITS if figures.get(key) is not None]
    if figures.get("penalty"):
        fit.append(f"penalty {_exact(figures['penalty'])}")
    lines.append(", ".join(fit))
    odds = figures.get("family") == "classes"
    for output in dict.fromkeys(one.output for one in findings.coefficients):
        lines += ["", *_table(output, [one for one in findings.coefficients if one.output == output], odds=odds)]
    remarks = regression_remarks(findings)
    return [*lines, *([""] if remarks else []), *remarks]


def importance_lines(findings: Findings) -> list[str]:
    """Return the columns with the largest importance, a line each; none if the model has no importances."""
    found = findings.largest_importances(IMPORTANCES_SHOWN_MAX)
    lines = ["", f"Importance of {len(found)} of {len(findings.importances)} columns"] if found else []
    for one in found:
        lines += _line(one.name, f"{one.gain:.1%}".rjust(8))
    return lines


def regression_remarks(findings: Findings) -> list[str]:
    """Return what a reader of the coefficients must know, in lines of at most 80 characters."""
    return list(_remarks(findings))


def _of_private_run(findings: Findings) -> Iterator[str]:
    noise, lost = findings.figures.get("noise of accuracy"), findings.figures.get("lost questions")
    if isinstance(noise, float):
        yield f"Noise alone moves the accuracy by ±{100.0 * noise:.2g} points (standard deviation)."
    if lost:
        yield f"Questions with too few answers, so that they are not used: {lost}."


def _remarks(findings: Findings) -> Iterator[str]:
    yield from _of_private_run(findings)
    figures, status = findings.figures, findings.figures.get("status")
    if status == "separated":
        yield "The classes are separable: a linear model of these columns makes no error."
        yield "So coefficients grow without a bound, and errors and p mean nothing."
        yield "Train again with --param penalty=1."
    if status == "stalled":
        yield "No step lowers the deviance: coefficients are not exact. Try --param penalty=1."
    if status == "running":
        yield "The coefficients have not converged: more rounds are needed, with all trainers."
    coverage = figures.get("coverage")
    if isinstance(coverage, float) and coverage < 1.0:
        yield f"Trainers missed rounds: these coefficients are of {coverage:.0%} of them."
    dropped = list(dict.fromkeys(one.name for one in findings.coefficients if one.dropped))
    if dropped:
        yield "The rank of the columns is deficient. These are left out, because they depend on"
        yield "columns before them or do not vary; the others are as without them:"
        yield from (f"  {printable(name)}" for name in dropped[:NAMES_SHOWN_MAX])
        if len(dropped) > NAMES_SHOWN_MAX:
            yield f"  and {len(dropped) - NAMES_SHOWN_MAX} more"
    if figures.get("penalty") and "family" in figures:
        yield "With a penalty there are no standard errors."
    clipped = figures.get("clipped")
    if clipped:
        yield f"{_exact(clipped)} values beyond 4,096 deviations are clipped: correct or remove them."


def _heading(findings: Findings, family: str) -> str:
    outputs = list(dict.fromkeys(one.output for one in findings.coefficients))
    reference = findings.figures.get("reference")
    of = ", ".join(map(printable, outputs[:NAMES_SHOWN_MAX]))
    against = f" against {printable(str(reference))}" if reference is not None else ""
    return f"{family} of {of}{against}: {findings.figures.get('status')}"


def _table(output: str, found: Sequence[Coefficient], *, odds: bool) -> Iterator[str]:
    with_errors = any(one.standard_error is not None for one in found)
    heads = f"{'coef':>11}" + f"{'std err':>10}{'z':>8}{'P>|z|':>7}{'[0.025':>10}{'0.975]':>10}" * with_errors
    heads += f"{'odds':>9}" * odds
    yield from _line(output, heads)
    yield "-" * WIDTH
    for one in found:
        if one.dropped:
            yield from _line(one.name, f"{'left out':>11}{'':{len(heads) - 11}}")
            continue
        cells = f"{_number(one.estimate, 4):>11}"
        if with_errors:
            cells += f"{_number(one.standard_error, 4):>10}{_fixed(one.z):>8}{_fixed(one.p):>7}"
            cells += f"{_number(one.low, 3):>10}{_number(one.high, 3):>10}"
        if odds:
            cells += f"{_number(math.exp(min(one.estimate, EXPONENT_MAX)), 3):>9}"
        yield from _line(one.name, cells)


def _line(name: str, cells: str) -> Iterator[str]:
    """Yield a name with its cells at the right; a long name has a line of its own."""
    shown, room = printable(name), WIDTH - len(cells)
    if len(shown) >= room:
        yield shown
        shown = ""
    yield f"{shown:<{room}}{cells}".rstrip()


def _number(value: float | None, places: int) -> str:
    if value is None:
        return ""
    plain = value == 0.0 or 10.0 ** (1 - places) <= abs(value) < 1e4
    if plain:
        return f"{value:.{places}f}"
    return f"{value:.2e}" if 1e-99 <= abs(value) < 1e99 else f"{value:.1e}"  # as wide, also with a longer exponent


def _fixed(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 1e3 else f"{value:.0e}"


def _exact(value: object) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)
