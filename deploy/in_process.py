"""A whole federation in one process: the services as plain objects, on the in-memory network and on virtual time.

The same classes that run as processes; for examples, notebooks and tests. Knows how to put them together, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aggregator.service import Aggregator, Limits
from aggregator.store import Description, Store
from aggregator.strategies import Strategy
from broker.service import Broker
from fedmq import events
from fedmq.models import TrainedModel
from fedmq.network import Link
from fedmq.streams import stream
from fedmq.tasks import Rows, Task
from fedmq.testing import Faults, Simulation, VirtualWorker
from fedmq.view import View
from trainer.answer import on_rows
from trainer.seen import Seen
from trainer.service import Trainer
from trainer.session import Session
from trainer.spool import MemorySpool
from trainer.worker import Learn, perform

RUN = "run"
AGGREGATOR = "aggregator"


class Federation:
    """A broker, an aggregator and trainers by name, each with its rows; nothing runs before `train`.

    `learn` stands in for the trainers' work, `store` for the aggregator's, for tests of everything around them. With a
    `view`, observers are told of the run; they are added through `simulation`.
    `events` holds all that the aggregator told, `finished` whether it told of the run's end. Parts are crashed, stopped
    and started through `simulation`, as `broker`, `aggregator`, and by the trainers' names.
    """

    def __init__(
        self,
        task: Task,
        strategy: Strategy[Any],
        rows: Mapping[str, Rows],
        *,
        seed: int = 0,
        limits: Limits | None = None,
        faults: Faults | None = None,
        learn: Callable[[Rows, str], Learn] = on_rows,
        store: Store | None = None,
        view: View | None = None,
        work_s: tuple[float, float] = (0.001, 0.003),
    ) -> None:
        self.task, self.strategy, self.seed = task, strategy, seed
        self.limits = limits or Limits(rounds_max=task.rounds, min_trainers=len(rows))
        self.simulation = Simulation(seed, faults)
        self.events: list[events.AnyEvent] = []
        self.finished = False
        self.store = store or Store(":memory:")
        if self.store.description is None:
            started = self.simulation.clock.wall()
            self.store.begin(Description(RUN, task, strategy.name, seed, started, strategy.robust))
        self._learn, self._work_s, self._view = learn, work_s, view
        self.simulation.add_broker(Broker)
        self.simulation.add_aggregator(AGGREGATOR, RUN, self._aggregator)
        for name, own in rows.items():
            self.simulation.add_trainer(name, self._trainer(name, own))
        self.aggregator: Aggregator | None = None  # the newest life of it
        self.trainers = tuple(rows)

    def _aggregator(self, link: Link) -> Aggregator:
        store, clock = self.store, self.simulation.clock
        store.abandon()  # what an earlier life had not committed

        def watch(event: events.AnyEvent) -> None:
            if store is self.store:  # else this life has been cut off from the run, and knows no better
                self.events.append(event)
                self.finished = self.finished or isinstance(event, events.RunFinished)

        self.aggregator = Aggregator(link, store, self.strategy, self.limits, clock=clock, watch=watch, view=self._view)
        return self.aggregator

    def _trainer(self, name: str, rows: Rows) -> Callable[[Link], Trainer]:
        simulation, learn, spool = self.simulation, self._learn(rows, name), MemorySpool()

        def make(link: Link) -> Trainer:
            worker = VirtualWorker(
                simulation,
                name,
                lambda packet, cancelled: perform(packet, learn, cancelled, simulation.clock),
                lambda: simulation.random.uniform(*self._work_s),
            )
            jitter, kept = stream(self.seed, "jitter", name), spool.kept.values()
            seen = Seen(spool.marks.values())
            session = Session(name, len(rows.inputs), "in-process", jitter, list(kept), seen=seen)
            return Trainer(link, session, worker, clock=simulation.clock, spool=spool)

        return make

    def start(self) -> None:
        """Start all parts."""
        self.simulation.start(Simulation.broker_name, AGGREGATOR, *self.trainers)

    def train(self, limit_s: float = 3600.0) -> TrainedModel | None:
        """Start all parts, run to the end of the run or for so many virtual seconds; the model, or None."""
        self.start()
        self.simulation.run(lambda: self.finished, limit_s)
        return self.model

    @property
    def model(self) -> TrainedModel | None:
        """The model that would be deployed now."""
        standing = None if self.aggregator is None else self.aggregator.rounds.standing
        return None if standing is None else TrainedModel(self.task.model, standing.genes, self.task.name)
