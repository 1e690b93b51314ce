"""`evolution` by its parameters: fedmq's own search or PyGAD's, by the answers of each trainer or by totals."""

from fedmq.algorithms.evolution.strategy import Evolution, EvolutionParameters
from fedmq.algorithms.evolution.totals import AdditiveEvolution


class EvolutionChoice:
    """The strategy of `evolution` for these parameters.

    PyGAD is imported only if a keyword asks for it: the aggregator of a run with defaults starts without.
    """

    name = Evolution.name
    additive = Evolution.additive
    Parameters = EvolutionParameters

    def __new__(cls, parameters: EvolutionParameters | None = None) -> object:  # type: ignore[misc]
        """Return an `Evolution` or a `Genetic`, or one of these that needs only totals."""
        parameters = parameters or EvolutionParameters()
        if not parameters.speaks_pygad:
            return AdditiveEvolution(parameters) if parameters.additive else Evolution(parameters)
        from fedmq.algorithms.evolution.genetic import AdditiveGenetic, Genetic

        return AdditiveGenetic(parameters) if parameters.additive else Genetic(parameters)
