"""The report of a run as one self-contained HTML file, for colleagues who have no fedmq.

All its figures come from `report.json`, from the closed rounds, and from the replay of the accepted results.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from msgspec.structs import asdict

from fedmq.algorithms.base import Query
from fedmq.algorithms.evaluation.figures import Metrics
from fedmq.algorithms.newton.summary import Coefficients
from fedmq.algorithms.registry import find_learner
from fedmq.algorithms.ridge.fit import RidgeFit
from fedmq.algorithms.statistics.survey import Survey
from fedmq.errors import QueryRefused
from fedmq.runs.charts import Series, bar_list, line_chart
from fedmq.runs.findings import Findings
from fedmq.runs.records import Close
from fedmq.runs.report import Report
from fedmq.runs.software import Software
from fedmq.runtime.printable import printable
from fedmq.tasks.task import Task

IMPORTANCES_SHOWN_MAX = 30
CATEGORIES_SHOWN_MAX = 8
CURVES_MAX = 6  # ROC curves of classes
Rows = Iterable[Sequence[object]]


def report_page(report: Report, findings: Findings) -> str:
    """Return the page."""
    task = report.config.task
    parts = [
        _head(report),
        _figures(report),
        _curves(task, findings.closes),
        _classes(task, report.held_out or report.training),
        _model(task, findings.result),
        _data(task, findings.survey),
        _sites(report),
        _asked(report, findings),
        _again(report, findings),
    ]
    style = resources.files("fedmq.runs").joinpath("report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(report.task)}: report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main>{''.join(filter(None, parts))}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.config.started))
    rows = sum(one.num_examples for one in report.trainers)
    why = {
        "solved": "The target was reached.",
        "done": "The algorithm had nothing left to learn.",
        "rounds": "All rounds were used.",
        "stopped": "It was stopped by a user.",
        "failed": f"It failed: {report.failure}",
    }.get(report.why, "")
    return (
        f"<header><h1>{_text(report.task)}</h1><p>Trained by <strong>{_text(report.algorithm)}</strong> over "
        f"{len(report.trainers)} sites with {rows} rows, on {day}, in {report.rounds} rounds. {_text(why)} "
        f"No row left its site.</p></header>"
    )


def _figures(report: Report) -> str:
    """Return the figures of the model, on held-out rows and on those trained on, side by side."""
    columns = [("held-out rows", report.held_out), ("training rows", report.training)]
    known = [(name, metrics) for name, metrics in columns if metrics is not None]
    if not known:
        value = "none" if report.value is None else f"{report.value:.4g}"
        return _section("Result", f"<p>{_text(report.metric)} on the rows trained on: <strong>{value}</strong>.</p>")
    names = {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "auc": "area under the ROC curve",
        "log_loss": "log-loss",
        "brier": "Brier score",
        "rmse": "root mean squared error",
        "mae": "mean absolute error",
        "r2": "R²",
    }
    rows = [
        [text, *(_number(getattr(metrics, name)) for _, metrics in known)]
        for name, text in names.items()
        if any(getattr(metrics, name) is not None for _, metrics in known)
    ]
    rows.append(["rows", *(str(metrics.rows) for _, metrics in known)])
    note = (
        "Held-out rows were chosen at each site by a hash of the row, measured the model, and never trained it."
        if report.held_out is not None
        else "No rows were held out: these figures are of the rows that the model was trained on."
    )
    return _section("Result", f"<p>{note}</p>" + _table(["", *(name for name, _ in known)], rows))


def _curves(task: Task, closes: Sequence[Close]) -> str:
    found = [(close.round, close.best) for close in closes if close.best is not None]
    held_out = [(float(number), best.value) for number, best in found if best.value_of == "held-out"]
    training = [(float(number), best.value) for number, best in found if best.value_of == "training"]
    training += [(float(number), best.training) for number, best in found if best.training is not None]
    series = [
        Series("held-out rows", held_out, dots=len(held_out) < 30),
        Series("training rows", sorted(training), "other"),
    ]
    series = [one for one in series if one.points]
    if not series:
        return ""
    name = "accuracy" if task.metric == "accuracy" else "summed loss"
    return _section("Training", line_chart(f"{name} by round", "round", name, series))


def _classes(task: Task, metrics: Metrics | None) -> str:
    if metrics is None or not metrics.confusion:
        return ""
    labels = _labels(task, len(metrics.confusion))
    confusion = _table(
        ["true class", *(f"predicted {label}" for label in labels)],
        [[label, *row] for label, row in zip(labels, metrics.confusion, strict=True)],
        "Confusion matrix, rows",
    )
    by_class = _table(
        ["class", "rows", "precision", "recall", "F1", "AUC"],
        [
            [label, one.rows, *map(_number, (one.precision, one.recall, one.f1, one.auc))]
            for label, one in zip(labels, metrics.classes, strict=True)
        ],
        "By class",
    )
    charts = ""
    of_curves = labels[1:] if len(metrics.roc) == 1 else labels
    curves = [
        Series(label, points, "main" if place == 0 else "other")
        for place, (label, points) in enumerate(zip(of_curves, metrics.roc, strict=False))
        if points
    ][:CURVES_MAX]
    if curves:
        guide = Series("chance", [(0.0, 0.0), (1.0, 1.0)], "guide")
        unit = (0.0, 1.0)
        charts += line_chart(
            "ROC curve", "false positives", "true positives", [*curves, guide], x_range=unit, y_range=unit
        )
    calibration = [
        (one.predicted, one.observed)
        for one in metrics.calibration
        if one.predicted is not None and one.observed is not None
    ]
    if calibration:
        guide = Series("perfect", [(0.0, 0.0), (1.0, 1.0)], "guide")
        charts += line_chart(
            "Calibration",
            "predicted probability",
            "observed share",
            [Series("model", calibration, dots=True), guide],
            x_range=(0.0, 1.0),
            y_range=(0.0, 1.0),
        )
    return _section("Classes", f'<div class="pair">{charts}</div>{confusion}{by_class}')


def _model(task: Task, result: Any) -> str:
    if isinstance(result, Coefficients):
        return _section("Model", _coefficients(task, result))
    if isinstance(result, RidgeFit):
        dropped = sum(not one for one in result.kept)
        text = f"Ridge regression with {result.features} features; penalty {result.penalty:.3g} a row"
        text += f"; {dropped} features depend on others and are not used." if dropped else "."
        return _section("Model", f"<p>{text}</p>")
    importance = getattr(result, "importance", None)
    if importance is not None:
        names = _column_names(task, len(importance))
        best = sorted(zip(names, map(float, importance), strict=True), key=lambda one: -one[1])
        return _section("Model", bar_list("Importance: gain of each column's splits", best[:IMPORTANCES_SHOWN_MAX]))
    return ""


def _coefficients(task: Task, found: Coefficients) -> str:
    count = found.estimates.shape[1] - 1
    features = task.schema.feature_names if task.schema is not None else tuple(f"x{one + 1}" for one in range(count))
    labels = _labels(task, len(found.estimates) + 1)[1:] if task.loss == "cross-entropy" else [""]
    low, high = found.interval()
    with_errors = bool(np.isfinite(found.standard_errors).any())
    odds = task.loss == "cross-entropy"
    heads = ["feature", "coefficient"]
    heads += ["odds ratio"] * odds + ["standard error", "z", "P>|z|", "95 % from", "to"] * with_errors
    tables = []
    for place, label in enumerate(labels):
        rows = []
        for column, name in enumerate(("(intercept)", *features)):
            estimate = float(found.estimates[place, column])
            cells: list[object] = [name, _number(estimate) if found.kept[place][column] else "left out"]
            if odds:
                cells.append(_number(float(np.exp(min(estimate, 700.0)))))
            if with_errors:
                values = (found.standard_errors, found.z, found.p_values, low, high)
                cells += [_number(float(one[place, column])) for one in values]
            rows.append(cells)
        tables.append(_table(heads, rows, f"Coefficients of {label}" if label else "Coefficients"))
    words = {
        "converged": "The coefficients have converged.",
        "separated": "The classes can be separated without error, so there is no finite best model: set a penalty.",
        "stalled": "The loss could not be lowered further before the steps were small.",
        "running": "The coefficients have not converged.",
    }
    facts = f"{words.get(found.status, found.status)} {found.num_examples} rows, deviance {found.deviance:.6g}"
    facts += "" if found.aic is None else f", AIC {found.aic:.6g}"
    return f"<p>{facts}.</p>" + "".join(tables)


def _data(task: Task, survey: Survey | None) -> str:
    if survey is None:
        return ""
    names = _column_names(task, len(survey.moments.counts))
    rows = []
    kinds = [column.kind for column in task.schema.columns] if task.schema is not None else []
    (low, _), (_, high), missing = survey.smallest(), survey.largest(), survey.missing
    for place, name in enumerate(names):
        kind = kinds[place] if place < len(kinds) else "number"
        cells: list[object] = [name, kind, int(survey.moments.counts[place]), int(missing[place])]
        if kind in ("category", "ordinal", "boolean"):
            cells += [_category_counts(task, survey, place), "", "", ""]
        else:
            mean, deviation = survey.moments.means[place], np.sqrt(survey.moments.variances[place])
            cells += [_number(float(mean)), _number(float(deviation)), _number(float(survey.quantile_of(place, 0.5)))]
            cells.append(f"{_number(float(low[place]))} to {_number(float(high[place]))}")
        rows.append(cells)
    heads = ["column", "kind", "values", "missing", "mean, or counts", "deviation", "median", "range, within"]
    classes = ""
    if len(survey.moments.classes):
        counts = survey.moments.classes.tolist()
        classes = _table(["class", "rows"], list(zip(_labels(task, len(counts)), counts, strict=True)), "Classes")
    note = f"<p>Over the {survey.num_examples} rows that trained the model, at all sites together.</p>"
    return _section("Data", note + classes + _table(heads, rows, "Columns"))


def _category_counts(task: Task, survey: Survey, place: int) -> str:
    assert task.schema is not None
    column = task.schema.columns[place]
    labels = ("no", "yes") if column.kind == "boolean" else column.categories
    counts = survey.histograms[place][: len(labels)].tolist()
    shown = [f"{label} {count}" for label, count in zip(labels, counts, strict=True)]
    more = len(shown) - CATEGORIES_SHOWN_MAX
    return ", ".join(shown[:CATEGORIES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _sites(report: Report) -> str:
    figure = "rmse" if report.held_out is not None and report.held_out.rmse is not None else "accuracy"
    own = any(one.held_out is not None for one in report.trainers)
    heads = ["site", "rows", "answers", "late", "left because"] + [f"{figure} on its held-out rows"] * own
    rows = [
        [one.name, one.num_examples, one.results, one.late, " ".join(filter(None, (one.reason, one.detail)))]
        + [_number(getattr(one.held_out, figure)) if one.held_out else "not permitted"] * own
        for one in report.trainers
    ]
    return _section("Sites", _table(heads, rows))


def _asked(report: Report, findings: Findings) -> str:
    rows = [[one.kind, one.rounds, one.answers, one.numbers, _sends(one.kind)] for one in findings.asked]
    heads = ["question", "rounds", "answers", "numbers in an answer", "what they are"]
    answers = sum(one.answers for one in findings.asked)
    each = report.bytes_up / answers if answers else 0.0
    note = (
        f"<p>Sites sent {_bytes(report.bytes_up)} in all, {_bytes(each)} an answer; {_bytes(report.bytes_down)} were "
        "sent to them.</p>"
    )
    return _section("What was asked, and what left each site", note + _table(heads, rows))


def _again(report: Report, findings: Findings) -> str:
    same = findings.model_sha256 == report.model_sha256
    rows: list[list[object]] = [
        ["run", report.run],
        ["seed", report.seed],
        ["parameters", ", ".join(f"{name}={value}" for name, value in report.config.parameters.items())],
        ["software", "; ".join(map(_versions, report.software))],
        ["SHA-256 of the model", report.model_sha256 or "none"],
        ["computed again from the accepted results", "the same SHA-256" if same else "another SHA-256"],
    ]
    how = (
        "<p>The same task, seed and rows give the same model. <code>fedmq runs replay RUN</code> computes it again "
        "from the accepted results in the run's folder.</p>"
    )
    return _section("How to reproduce it", how + _table(["", ""], rows))


def _versions(software: Software) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(software).items())


def _sends(kind: str) -> str:
    try:
        query: type[Query] = find_learner(kind).query
    except QueryRefused:
        return ""
    return query.sends


def _labels(task: Task, count: int) -> list[str]:
    known = () if task.schema is None else task.schema.target.classes
    return list(known) if len(known) == count else [str(one) for one in range(count)]


def _column_names(task: Task, count: int) -> list[str]:
    names = [] if task.schema is None else [column.name for column in task.schema.columns]
    if task.schema is not None and count > len(names):
        names.append(f"{task.schema.target.name} (target)")
    return names + [f"x{one + 1}" for one in range(len(names), count)]


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(heads: Sequence[str], rows: Rows, caption: str = "") -> str:
    head = "".join(f'<th scope="col">{_text(one)}</th>' for one in heads) if any(heads) else ""
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_text(cell)}</th>' if place == 0 else f"<td{_align(cell)}>{_text(cell)}</td>"
            for place, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{title}'
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table></div>"
    )


def _align(cell: object) -> str:
    text = str(cell)
    return ' class="number"' if text[:1] in "-0123456789" and " " not in text else ""


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.4g}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000 or unit == "MB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("not reached")
