"""PyGAD's callback `on_generation`, of the file of a task: the aggregator calls it after each generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedmq.algorithms.base import Strategy
from fedmq.errors import BadConfiguration, named


class GenerationCallback:
    """The callback with the `pygad.GA` of a strategy's state; each generation is reported once.

    It gets a copy: what it changes has no effect, except that it may return "stop".

    Raises:
        BadConfiguration: the strategy has no `pygad.GA`; when called, the callback fails.
    """

    def __init__(self, on_generation: Callable[[Any], object], strategy: Strategy[Any]) -> None:
        instance: Callable[[Any], Any] | None = getattr(strategy, "instance", None)
        if instance is None:
            raise BadConfiguration(
                f"on_generation: expected algorithm evolution with one of PyGAD's keywords and without additive, "
                f"got {strategy.name}: give "
                'the task such as parameters={"evolution": {"sol_per_pop": 50}}'
            )
        self._instance, self._on_generation, self._generation = instance, on_generation, 0

    def __call__(self, state: Any) -> bool:
        """Return whether the run ends."""
        ga = self._instance(state)
        if ga is None or ga.generations_completed <= self._generation:
            return False
        self._generation = ga.generations_completed
        try:
            returned = self._on_generation(ga)
        except (Exception, SystemExit) as error:
            raise BadConfiguration(
                f"on_generation: expected a callback that returns, got {named(error)} after generation "
                f"{self._generation}: correct it, and continue the run"
            ) from error
        return isinstance(returned, str) and returned.lower() == "stop"
