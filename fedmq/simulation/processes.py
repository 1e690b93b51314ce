"""The work of rounds in several processes of this machine, or of a cluster of Dask."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Protocol

from fedmq.errors import BadConfiguration, named
from fedmq.protocol.codec import Frames, decode
from fedmq.simulation.population import Population

CHUNKS = 4  # of the trainers of a round, for each process: a chunk that is slow keeps the others busy
PROCESSES_MAX = 256
CONNECT_S = 10.0  # to a cluster of Dask

_population: Population | None = None  # of a process of a pool: it has been forked with it


class Pending(Protocol):
    """A result that another process computes."""

    def result(self) -> list[Frames]: ...


class SharedWorkers:
    """Answers that other processes compute, in chunks: each of them answers for any trainer, with the same bits.

    `submit` gives the work of these trainers on a round to a process, `close` ends all of them.
    """

    def __init__(
        self,
        processes: int,
        submit: Callable[[Frames, Mapping[str, float]], Pending],
        close: Callable[[], None],
    ) -> None:
        self._processes, self._submit, self._close = processes, submit, close
        self._pending: dict[int, dict[str, tuple[Pending, int]]] = {}  # by round and trainer, with its place

    def begin(self, number: int, frames: Frames, train_s: Mapping[str, float]) -> None:
        """See `LocalWorkers`: the work begins now, the first to be due first."""
        names = sorted(train_s, key=lambda name: train_s[name])
        size = max(1, -(-len(names) // (CHUNKS * self._processes)))
        round_ = self._pending.setdefault(number, {})
        for start in range(0, len(names), size):
            chunk = names[start : start + size]
            pending = self._submit(frames, {name: train_s[name] for name in chunk})
            round_ |= {name: (pending, place) for place, name in enumerate(chunk)}

    def take(self, number: int, name: str) -> Frames:
        pending, place = self._pending[number].pop(name)
        return pending.result()[place]

    def end(self, number: int) -> None:
        self._pending.pop(number, None)

    def close(self) -> None:
        self._close()


def forked_pool(processes: int, begin: Callable[..., None] | None = None, *arguments: object) -> ProcessPoolExecutor:
    """Return a pool of processes, each of which begins with `begin(*arguments)`.

    They are forked, so that they share the memory of the rows, and a script needs no `if __name__ == "__main__"`.
    """
    fork: Any = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(processes, fork, initializer=begin, initargs=arguments)  # type: ignore[arg-type]


def process_workers(population: Population, processes: int) -> SharedWorkers:
    """Return workers that are processes of this machine."""
    pool = forked_pool(processes, _begin, population)

    def submit(frames: Frames, train_s: Mapping[str, float]) -> Future[list[Frames]]:
        return pool.submit(_answers, list(frames), dict(train_s))

    return SharedWorkers(processes, submit, lambda: pool.shutdown(cancel_futures=True))


def _begin(population: Population) -> None:
    global _population
    _population = population


def _answers(frames: Frames, train_s: Mapping[str, float]) -> list[Frames]:
    assert _population is not None, "the process has begun"
    return answers(_population, frames, train_s)


def answers(population: Population, frames: Frames, train_s: Mapping[str, float]) -> list[Frames]:
    """Return the answers of these trainers to a round, in their order."""
    packet = decode(frames)
    return [population.answer(name, packet, seconds) for name, seconds in train_s.items()]


def dask_workers(population: Population, scheduler: str) -> SharedWorkers:
    """Return workers that are those of a running cluster of Dask, at the address of its scheduler.

    Raises:
        BadConfiguration: dask.distributed is not installed, or there is no such cluster.
    """
    try:
        import distributed
    except ImportError as error:
        raise BadConfiguration("--engine dask: expected dask to be installed: pip install 'fedmq[dask]'") from error
    try:
        connect: Any = distributed.Client  # it has no types
        client = connect(scheduler, timeout=CONNECT_S, set_as_default=False)
        processes = sum(client.nthreads().values())
        if not processes:
            client.close()
            raise BadConfiguration(f"--scheduler {scheduler}: expected a cluster with workers, got none: start some")
        everywhere = client.scatter(population, broadcast=True)
    except (OSError, ValueError) as error:
        raise BadConfiguration(
            f"--scheduler {scheduler}: expected the scheduler of a running cluster, got {named(error)}: "
            "start dask scheduler and dask worker"
        ) from error

    def submit(frames: Frames, train_s: Mapping[str, float]) -> Pending:
        pending: Pending = client.submit(answers, everywhere, list(frames), dict(train_s), pure=False)
        return pending

    return SharedWorkers(processes, submit, client.close)
