"""`evolution` by its parameters: the fast path, or PyGAD itself where one of its keywords is given."""

from fedmq.algorithms.evolution.strategy import Evolution, EvolutionParameters


class EvolutionChoice:
    """The strategy of `evolution` for these parameters.

    PyGAD is imported only if a keyword asks for it: the aggregator of a run with defaults starts without.
    """

    name = Evolution.name
    additive = Evolution.additive
    Parameters = EvolutionParameters

    def __new__(cls, parameters: EvolutionParameters | None = None) -> object:  # type: ignore[misc]
        """Return an `Evolution` or a `Genetic`."""
        if parameters is None or not parameters.speaks_pygad:
            return Evolution(parameters)
        from fedmq.algorithms.evolution.genetic import Genetic

        return Genetic(parameters)
