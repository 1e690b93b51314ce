"""The report of a run as one self-contained HTML file, for colleagues who have no fedmq.

All its figures come from `report.json`, from the closed rounds, and from the replay of the accepted results.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from msgspec.structs import asdict

from fedmq.algorithms.evaluation.figures import Metrics
from fedmq.algorithms.findings import Coefficient, Findings
from fedmq.observe.event_text import differences_text
from fedmq.observe.genes_text import gene_text
from fedmq.runs.charts import Series, bar_list, histogram, html_text, line_chart
from fedmq.runs.records import Close
from fedmq.runs.recount import Recount
from fedmq.runs.report import Report
from fedmq.runs.software import Software
from fedmq.runtime.clock import time_text
from fedmq.tasks.task import Task

EXPONENT_MAX = 700.0  # exp of more overflows
BARS = 24  # of a small histogram
IMPORTANCES_SHOWN_MAX = 30
CATEGORIES_SHOWN_MAX = 8
CORRELATIONS_SHOWN_MAX = 20
GENES_SHOWN_MAX = 100
FRONT_SHOWN_MAX = 100
CURVES_MAX = 6  # ROC curves of classes
Rows = Iterable[Sequence[object]]


class Markup(str):
    """A cell that is HTML already."""

    __slots__ = ()


def report_page(report: Report, findings: Findings | None, counted: Recount) -> str:
    """Return the page; `findings` is what the algorithm found beside the model."""
    findings = findings or Findings()
    task = report.config.task
    parts = [
        _head(report),
        _figures(report),
        _curves(task, counted.closes),
        _classes(task, report.held_out or report.training),
        _model(findings),
        _data(findings),
        _sites(report),
        _baselines(report),
        _asked(report, counted, findings),
        _again(report, counted),
    ]
    style = resources.files("fedmq.runs").joinpath("report.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(report.task)}: report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main>{''.join(filter(None, parts))}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    day = time_text(report.config.started)
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
    return _section("Result", f"<p>{note}</p>" + _table(["figure", *(name for name, _ in known)], rows))


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


def _model(findings: Findings) -> str:
    parts = []
    if findings.figures:
        parts.append(_table(["", ""], [[name, _cell(value)] for name, value in findings.figures.items()]))
    outputs = dict.fromkeys(one.output for one in findings.coefficients)
    for output in outputs:
        parts.append(_coefficients(output, [one for one in findings.coefficients if one.output == output], findings))
    parts += filter(None, (_genes(findings), _front(findings)))
    gains = findings.largest_importances(IMPORTANCES_SHOWN_MAX)
    if gains:
        bars = [(one.name, one.gain * 100.0) for one in gains]
        parts.append(bar_list("Importance: how much the splits of a column lower the loss", bars, " %"))
    return _section("Model", "".join(parts)) if parts else ""


def _genes(findings: Findings) -> str:
    """Return the genes of the model by name; integers as integers."""
    if not findings.genes:
        return ""
    named = zip(findings.gene_names, findings.genes, findings.gene_types, strict=False)
    rows = [[name, gene_text(value), kind] for name, value, kind in named]
    return _table(["gene", "value", "type"], rows[:GENES_SHOWN_MAX], "Genes of the model")


def _front(findings: Findings) -> str:
    """Return the candidates that no other dominates: a curve of the first two objectives, and a table."""
    if not findings.front:
        return ""
    first, second = findings.objectives[:2]
    points = sorted((one.fitness[0], one.fitness[1]) for one in findings.front)
    chart = line_chart("Pareto front, by fitness", first, second, [Series("front", points, dots=True)])
    heads = [*findings.objectives, *findings.gene_names[:GENES_SHOWN_MAX]]
    rows = [
        [*map(gene_text, one.fitness), *map(gene_text, one.genes[:GENES_SHOWN_MAX])]
        for one in findings.front[:FRONT_SHOWN_MAX]
    ]
    note = "<p>No candidate is better in one objective and as good in the others. The model is one of these.</p>"
    return chart + note + _table(heads, rows, "Pareto front")


def _coefficients(output: str, found: Sequence[Coefficient], findings: Findings) -> str:
    with_errors = any(one.standard_error is not None for one in found)
    odds = bool(findings.classes)
    heads = ["feature", "coefficient"] + ["odds ratio"] * odds
    heads += ["standard error", "z", "P>|z|", "95 % from", "to"] * with_errors
    rows: list[list[object]] = []
    for one in found:
        row: list[object] = [one.name, "left out: it depends on others" if one.dropped else _number(one.estimate)]
        row += ["" if one.dropped else _number(math.exp(min(one.estimate, EXPONENT_MAX)))] * odds
        if with_errors:
            row += map(_number, (one.standard_error, one.z, one.p, one.low, one.high))
        rows.append(row)
    return _table(heads, rows, f"Coefficients of {output}")


def _data(findings: Findings) -> str:
    if not findings.columns:
        return ""
    heads = ["column", "kind", "values", "missing", "mean", "deviation", "median", "from, within", "to, within", "rows"]
    rows: list[list[object]] = []
    for one in findings.columns:
        row: list[object] = [one.name, one.kind, one.count, one.missing]
        if one.categories:
            row += ["", "", "", "", "", _category_counts(one.categories)]
        else:
            row += [_number(one.mean), _number(one.deviation), _number(one.quantiles.get("0.5"))]
            row += [_bounds(one.smallest), _bounds(one.largest), Markup(histogram(one.bars(BARS)))]
        rows.append(row)
    classes = _table(["class", "rows"], list(findings.classes.items()), "Classes") if findings.classes else ""
    note = f"<p>Over the {findings.num_examples} rows that trained the model, at all sites together.</p>"
    pairs = findings.strongest_correlations(CORRELATIONS_SHOWN_MAX)
    correlated = [[f"{one} and {other}", f"{value:+.3f}"] for value, one, other in pairs]
    correlations = _table(["pair", "correlation"], correlated, "Strongest correlations") if correlated else ""
    return _section("Data", note + classes + _table(heads, rows, "Columns") + correlations)


def _bounds(pair: tuple[float, float]) -> str:
    low, high = map(_number, pair)
    return low if low == high else f"{low} … {high}"


def _category_counts(counts: Mapping[str, int]) -> str:
    shown = [f"{label} {count}" for label, count in counts.items()]
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
    if names := sorted({name for one in report.trainers for name in one.metrics}):
        heads += names
        rows = [
            [*row, *(_number(one.metrics[name]) if name in one.metrics else "" for name in names)]
            for row, one in zip(rows, report.trainers, strict=True)
        ]
    differing = "".join(
        f"<li>{_text(differences_text(one.name, one.differences))}</li>" for one in report.trainers if one.differences
    )
    notes = f'<p>These sites are unlike the others:</p><ul class="differs">{differing}</ul>' if differing else ""
    return _section("Sites", notes + _table(heads, rows))


def _baselines(report: Report) -> str:
    """Return what each site reaches alone, all together, and all rows in one place, if that was asked for."""
    measured = [one for one in report.baselines if one.held_out is not None]
    if not measured:
        return ""
    values = any(one.held_out.rmse is not None for one in measured if one.held_out is not None)
    names = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"} if values else {
        "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC", "log_loss": "log-loss",
    }  # fmt: skip
    rows = [
        [f"{one.trainer} alone" if one.rows == "alone" else one.rows]
        + [_number(getattr(one.held_out, name)) if one.held_out else one.failure for name in names]
        for one in report.baselines
    ]
    note = "<p>The same algorithm with and without federation, on the held-out rows of all sites.</p>"
    return _section("What federation buys", note + _table(["trained on", *names.values()], rows))


def _asked(report: Report, counted: Recount, findings: Findings) -> str:
    rows = [[one.kind, one.times, one.answers, one.numbers, one.sends] for one in counted.asked]
    heads = ["question", "rounds", "answers", "numbers in an answer", "what they are"]
    answers = sum(one.answers for one in counted.asked)
    each = report.bytes_up / answers if answers else 0.0
    note = (
        f"<p>Sites sent {_bytes(report.bytes_up)} in all, {_bytes(each)} an answer; {_bytes(report.bytes_down)} were "
        "sent to them.</p>"
    )
    trees = findings.figures.get("trees")
    if trees and report.trainers:
        note += f"<p>{_bytes(report.bytes_up / len(report.trainers) / float(trees))} a site and tree.</p>"
    return _section("What was asked, and what left each site", note + _table(heads, rows))


def _again(report: Report, counted: Recount) -> str:
    same = counted.model_sha256 == report.model_sha256
    rows: list[list[object]] = [
        ["run", report.run],
        ["seed", report.seed],
        ["parameters", ", ".join(f"{name}={value}" for name, value in report.config.parameters.items())],
        ["software", "; ".join(map(_versions, report.software))],
        ["SHA-256 of the model", report.model_sha256 or "none"],
        ["computed again from the accepted results", "the same SHA-256" if same else "another SHA-256"],
    ]
    if report.config.secure:
        rows.append(["secure sums", "the aggregator has learned totals of answers only"])
    if report.privacy:
        rows.append(["differential privacy", report.privacy])
    if report.config.started_from:
        rows.append(["began with the model of SHA-256", report.config.started_from])
    how = (
        "<p>The same task, seed and rows give the same model. <code>fedmq runs replay RUN</code> computes it again "
        "from the accepted results in the run's folder.</p>"
    )
    return _section("How to reproduce it", how + _table(["", ""], rows))


def _versions(software: Software) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(software).items())


def _labels(task: Task, count: int) -> list[str]:
    known = () if task.schema is None else task.schema.target.classes
    return list(known) if len(known) == count else [str(one) for one in range(count)]


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{content}</section>"


def _table(heads: Sequence[str], rows: Rows, caption: str = "") -> str:
    named = any(heads)  # else it is a list of names and values
    head = "".join(f'<th scope="col">{_text(one)}</th>' for one in heads) if named else ""
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_text(cell)}</th>'
            if place == 0
            else f"<td{_align(cell) if named else ''}>{_text(cell)}</td>"
            for place, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{title}'
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table></div>"
    )


def _align(cell: object) -> str:
    text = str(cell)
    return ' class="number"' if text[:1] in "+-0123456789" and " " not in text else ""


def _text(value: object) -> str:
    if isinstance(value, Markup):
        return value
    return html_text(str(value))


def _cell(value: float | str | None) -> str:
    return value if isinstance(value, str) else _number(value)


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.4g}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000 or unit == "MB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("not reached")
