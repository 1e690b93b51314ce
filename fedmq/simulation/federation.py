"""A federation in one process: the same service classes as in deployment, on an in-memory network and virtual time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmq.aggregator.service import Aggregator
from fedmq.algorithms.base import Strategy
from fedmq.algorithms.parameters import parameters_of
from fedmq.broker.service import Broker
from fedmq.models.trained_model import TrainedModel
from fedmq.observe import events
from fedmq.observe.run_state import RunState
from fedmq.protocol.run_config import Limits, RunConfig
from fedmq.runs.store import Store
from fedmq.runtime.rng import derive_rng
from fedmq.secure_sums.ledger import Ledger
from fedmq.simulation.identities import VirtualIdentities
from fedmq.simulation.network import Faults, Simulation
from fedmq.simulation.worker import VirtualWorker
from fedmq.tables.table import Table
from fedmq.tasks.row_views import count_rows
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.high_water_marks import HighWaterMarks
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.secure_answers import SecureAnswers
from fedmq.trainer.service import Trainer
from fedmq.trainer.session import Session
from fedmq.trainer.spool import MemorySpool
from fedmq.trainer.worker import Learn, perform
from fedmq.transport.link import Link

RUN = "run"
AGGREGATOR = "aggregator"


class Federation:
    """A broker, an aggregator and trainers by name, each with its rows or table; they start with `train` or `start`.

    `labels` are what trainers declare, by name; `learn` replaces their work and `store` the aggregator's store. In a
    `secure` run the aggregator learns totals only; `spools` has what each trainer has stored. With a
    `view`, the aggregator publishes events for observers, which are added through `simulation`. `events` holds all
    events, `finished` whether the run has ended. `simulation` crashes, stops and starts services: `broker`,
    `aggregator`, and trainers by their names.
    """

    def __init__(
        self,
        task: Task,
        strategy: Strategy[Any],
        rows: Mapping[str, Rows | Table],
        *,
        seed: int = 0,
        limits: Limits | None = None,
        faults: Faults | None = None,
        learn: Callable[[Any, str], Learn] = on_rows,
        store: Store | None = None,
        view: RunState | None = None,
        work_s: tuple[float, float] = (0.001, 0.003),
        labels: Mapping[str, tuple[str, ...]] | None = None,
        secure: bool = False,
    ) -> None:
        self.task, self.strategy, self.seed = task, strategy, seed
        limits = limits or Limits(rounds_max=task.rounds, min_trainers=len(rows))
        self.simulation = Simulation(seed, faults)
        self.events: list[events.AnyEvent] = []
        self.finished = False
        self.store = store or Store(":memory:")
        if self.store.config is None:
            self.store.begin(
                RunConfig(
                    run=RUN,
                    task=task,
                    algorithm=strategy.name,
                    parameters=parameters_of(strategy),
                    seed=seed,
                    started=self.simulation.clock.wall(),
                    limits=limits,
                    secure=secure,
                )
            )
        else:
            self.store.change_limits(limits)
        self._learn, self._work_s, self._view = learn, work_s, view
        self._labels = labels or {}
        self._identities = VirtualIdentities(seed, rows) if secure else None
        self.spools = {name: MemorySpool() for name in rows}
        self.simulation.add_broker(lambda hub: Broker(hub, self.simulation.clock))
        self.simulation.add_aggregator(AGGREGATOR, RUN, self._aggregator)
        for name, own in rows.items():
            self.simulation.add_trainer(name, self._trainer(name, own))
        self.aggregator: Aggregator | None = None  # of the latest start
        self.trainers = tuple(rows)

    def _aggregator(self, link: Link) -> Aggregator:
        store, clock = self.store, self.simulation.clock
        store.abandon()  # uncommitted changes of the previous start

        def watch(_at: float, happened: Sequence[events.AnyEvent]) -> None:
            if store is self.store:  # else this life has been replaced
                self.events += happened
                self.finished = self.finished or any(isinstance(event, events.RunFinished) for event in happened)

        identities = None if self._identities is None else self._identities.of_members
        self.aggregator = Aggregator(
            link, store, self.strategy, clock=clock, watch=watch, run_state=self._view, identities=identities
        )
        return self.aggregator

    def _trainer(self, name: str, rows: Rows | Table) -> Callable[[Link], Trainer]:
        simulation, learn = self.simulation, self._learn(rows, name)

        def make(link: Link) -> Trainer:
            spool = self.spools[name]
            worker = VirtualWorker(
                simulation,
                name,
                lambda packet, cancelled: perform(packet, learn, cancelled, simulation.clock),
                lambda: simulation.random.uniform(*self._work_s),
            )
            jitter, kept = derive_rng(self.seed, "jitter", name), spool.results.values()
            marks = HighWaterMarks(spool.marks.values())
            labels, controls = self._labels.get(name, ()), spool.controls.values()
            session = Session(
                name,
                count_rows(rows),
                "in-process",
                jitter,
                list(kept),
                marks=marks,
                controls=controls,
                labels=labels,
                secure=self._secure(name),
            )
            return Trainer(link, session, worker, clock=simulation.clock, spool=spool)

        return make

    def _secure(self, name: str) -> SecureAnswers | None:
        """Return the part of a trainer in secure sums at another start, with the ledger that it has stored."""
        if self._identities is None:
            return None
        entries = self.spools[name].entries.get(RUN)
        return self._identities.secure_answers(name, RUN, None if entries is None else Ledger(entries))

    def start(self) -> None:
        self.simulation.start(Simulation.broker_name, AGGREGATOR, *self.trainers)

    def train(self, limit_s: float = 3600.0) -> TrainedModel | None:
        """Start all services and run until the run ends or `limit_s` virtual seconds have passed; return `model`."""
        self.start()
        self.simulation.run(lambda: self.finished, limit_s)
        return self.model

    @property
    def model(self) -> TrainedModel | None:
        """The best model so far, or None."""
        evaluation = None if self.aggregator is None else self.aggregator.rounds.evaluation
        return None if evaluation is None else self.task.trained(evaluation.parameters, evaluation.preparation)
