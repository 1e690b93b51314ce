"""A page of who has which rows: for each trainer the number of rows of each class, or of each part of the range."""

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.simulation.run import Chart, page_of

TRAINERS_SHOWN_MAX = 200
CLASSES_SHOWN_MAX = 30  # of numbers: more are no classes
PARTS = 10  # of the range of a numeric target, by quantiles


def split_page(targets: Mapping[str, npt.NDArray[Any]]) -> Chart:
    """Return the page for the targets (rows,) of each trainer; the darker a cell, the more rows it has."""
    names, labels, counts = _counts(targets)
    most = max(1, int(counts.max(initial=1)))
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    rows = []
    for name, own in zip(names[:TRAINERS_SHOWN_MAX], counts, strict=False):
        cells = "".join(
            f'<td class="number" style="{_shade(count / most)}">{count or ""}</td>' for count in own.tolist()
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td class="number">{own.sum()}</td>{cells}</tr>')
    more = len(names) - len(rows)
    note = f"<p>And {more} more trainers.</p>" if more > 0 else ""
    table = f"<table><thead><tr><th>trainer</th><th>rows</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return page_of("<h1>Who has which rows</h1>", '<div class="wide">', table, "</div>", note)


def _counts(targets: Mapping[str, npt.NDArray[Any]]) -> tuple[list[str], list[str], npt.NDArray[np.int64]]:
    """Return the trainers, the columns of the table, and the rows (trainers, columns)."""
    every = np.concatenate(list(targets.values()))
    values = np.unique(every)
    if len(values) <= CLASSES_SHOWN_MAX or values.dtype.kind not in "fiu":
        labels = [f"{value:g}" if values.dtype.kind == "f" else str(value) for value in values]
        places = [np.searchsorted(values, own) for own in targets.values()]
    else:
        edges = np.unique(np.quantile(every.astype(np.float64), np.linspace(0, 1, PARTS + 1)))
        labels = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        places = [np.clip(np.searchsorted(edges, own, "right") - 1, 0, len(labels) - 1) for own in targets.values()]
    return list(targets), labels, np.array([np.bincount(place, minlength=len(labels)) for place in places])


def _shade(share: float) -> str:
    return f"background:color-mix(in srgb, var(--accent) {round(60 * share)}%, transparent)" if share else ""
