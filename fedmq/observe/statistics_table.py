"""Statistics of columns as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from fedmq.algorithms.findings import ColumnFigures, Findings
from fedmq.observe.console import PrintableTable

WIDE = 110  # columns of a terminal that has room for the histograms
BARS, BLOCKS = 16, " ▁▂▃▄▅▆▇█"
CATEGORIES_SHOWN_MAX = 6
PAIRS_SHOWN_MAX = 20


def statistics_table(findings: Findings, width: int) -> PrintableTable:
    """Return a line for each column: counts, mean, deviation, quantiles, range; with a histogram if there is room."""
    wide = width >= WIDE
    table = PrintableTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("column", overflow="fold")
    table.add_column("kind")
    for name in ("missing", "mean", "deviation", *(("5 %", "median", "95 %") if wide else ("median",))):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from … to" if not wide else "from … to, within", no_wrap=not wide)
    if wide:
        table.add_column("rows", no_wrap=True)
    for one in findings.columns:
        table.add_row(*_cells(one, wide=wide))
    return table


def correlation_table(findings: Findings) -> PrintableTable:
    """Return the strongest correlations of pairs, a line each."""
    table = PrintableTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right", no_wrap=True)
    for value, one, other in findings.strongest_correlations(PAIRS_SHOWN_MAX):
        table.add_row(*map(Text, (f"{value:+.3f}", one, other)))
    return table


def classes_line(classes: Mapping[str, int]) -> str:
    """Return the rows by class, in one line."""
    return ", ".join(f"{label} {count}" for label, count in classes.items())


def _cells(one: ColumnFigures, *, wide: bool) -> list[Text]:
    cells = [one.name, one.kind, str(one.missing)]
    if one.categories:
        counts = classes_line(dict(list(one.categories.items())[:CATEGORIES_SHOWN_MAX]))
        more = len(one.categories) - CATEGORIES_SHOWN_MAX
        cells += ["", "", *[""] * (3 if wide else 1), counts + (f" and {more} more" if more > 0 else "")]
        return [Text(cell) for cell in (*cells, *([""] if wide else []))]
    quantiles = ("0.05", "0.5", "0.95") if wide else ("0.5",)
    cells += [f"{one.mean:.4g}", f"{one.deviation:.4g}"]
    cells += [f"{one.quantiles[share]:.4g}" if share in one.quantiles else "" for share in quantiles]
    cells.append(f"{one.smallest[0]:.4g} … {one.largest[1]:.4g}")
    return [Text(cell) for cell in (*cells, *([_blocks(one.bars(BARS))] if wide else []))]


def _blocks(heights: Sequence[float]) -> str:
    """Return bars as one line of blocks."""
    top = max(heights, default=0.0)
    return "".join(BLOCKS[round(height / top * (len(BLOCKS) - 1))] for height in heights) if top else ""
