"""The genes of a model by name, and the Pareto front, as text for a terminal."""

from __future__ import annotations

from fedmq.algorithms.findings import Findings
from fedmq.runtime.printable import printable

GENES_SHOWN_MAX = 20
FRONT_SHOWN_MAX = 10


def gene_lines(findings: Findings) -> list[str]:
    """Return the genes of the model, and the first candidates of the front, a line each; none without named genes."""
    lines = []
    if findings.genes:
        lines.append(f"genes: {_named(findings.gene_names, findings.genes)}")
    if findings.front:
        lines.append(f"Pareto front: {len(findings.front)} candidates")
        for one in findings.front[:FRONT_SHOWN_MAX]:
            lines.append(f"  {_named(findings.objectives, one.fitness)}: {' '.join(map(gene_text, one.genes))}")
        if (more := len(findings.front) - FRONT_SHOWN_MAX) > 0:
            lines.append(f"  and {more} more: see the report")
    return lines


def gene_text(value: float) -> str:
    """Return a gene as text: an integer as it is."""
    return str(value) if isinstance(value, int) else f"{value + 0.0:.4g}"  # + 0.0: no -0


def _named(names: tuple[str, ...], values: tuple[float, ...]) -> str:
    shown = [f"{printable(name)}={gene_text(value)}" for name, value in zip(names, values, strict=False)]
    return " ".join(shown[:GENES_SHOWN_MAX]) + (" …" if len(shown) > GENES_SHOWN_MAX else "")
