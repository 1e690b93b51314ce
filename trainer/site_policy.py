"""What a site permits: the conditions on each question that a trainer answers, whatever aggregator asks.

The conditions follow DataSHIELD's disclosure settings (nfilter.subset, nfilter.glm, nfilter.tab), but are off unless
the site sets them: docs/how-to/control-what-a-site-answers.md has a set to begin with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from fedmq.algorithms.base import Query
from fedmq.algorithms.registry import algorithm_of_query
from fedmq.errors import PolicyRefused
from fedmq.tasks.task import Task

TREE_HISTOGRAMS = "tree-histograms"  # its nodes and bins get small, and a model without them is another one
EVALUATE = "evaluate"  # scores candidates, by which a model can be fitted
PRODUCTS = "products"  # of each pair of columns: with few rows, they show the rows up to a rotation


@dataclass(frozen=True)
class SitePolicy:
    """Conditions on questions; the defaults permit all."""

    min_rows: int = 1  # behind each answer
    min_cell: int = 1  # rows behind each count of a table or histogram; smaller ones are sent as 0
    parameters_per_row_max: float | None = None  # of a model that is fitted
    algorithms: tuple[str, ...] = ()  # (): all
    columns: tuple[str, ...] = ()  # names of columns that a task may use; (): all

    def check(self, kind: str, task: Task, num_examples: int) -> None:
        """Check a question of this kind before any row is looked at; `num_examples` rows would answer it.

        Raises:
            PolicyRefused: names the setting that refuses it.
        """
        if num_examples < self.min_rows:
            raise PolicyRefused(f"--min-rows: expected at least {self.min_rows} rows behind an answer, got fewer")
        algorithm = algorithm_of_query(kind)
        # All algorithms on tables look at columns and at the figures of a model.
        looks = algorithm in ("statistics", "evaluation") and kind not in (EVALUATE, PRODUCTS)
        if self.algorithms and algorithm not in self.algorithms and not looks:
            raise PolicyRefused(f"--allow-algorithms {','.join(self.algorithms)}: got a question of {algorithm}")
        if self.min_cell > 1 and kind == TREE_HISTOGRAMS:
            raise PolicyRefused(
                f"--min-cell {self.min_cell}: got a question of {algorithm}, whose cells have fewer rows: "
                "use newton or ridge"
            )
        if self.columns:
            self._check_columns(task)
        most = self.parameters_per_row_max
        if most is not None and not looks and task.model.num_parameters > most * num_examples:
            raise PolicyRefused(
                f"--parameters-per-row-max {most:g}: got a model of {task.model.num_parameters} parameters for too few "
                "rows: take a smaller model"
            )

    def suppressed(self, query: Query, answer: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Return the answer with 0 for each count that is too small, and for each sum over so few rows."""
        return dict(query.without_small(answer, self.min_cell) if self.min_cell > 1 else answer)

    def _check_columns(self, task: Task) -> None:
        if task.schema is None:
            raise PolicyRefused("--allow-columns: expected a task that names its columns, got one without names")
        foreign = [name for name in task.schema.names() if name not in self.columns]
        if foreign:
            raise PolicyRefused(f"--allow-columns: got a task with {', '.join(foreign)}")

    def lines(self) -> list[str]:
        """Return the settings in words, one line each."""
        some = "any"
        return [
            f"rows behind an answer        at least {self.min_rows}",
            f"smallest count that is sent  {self.min_cell if self.min_cell > 1 else some}",
            "parameters of a model        "
            + (
                some if self.parameters_per_row_max is None else f"at most {self.parameters_per_row_max:g} for each row"
            ),
            f"algorithms                   {', '.join(self.algorithms) or some}",
            f"columns                      {', '.join(self.columns) or some}",
        ]


PERMIT_ALL = SitePolicy()
