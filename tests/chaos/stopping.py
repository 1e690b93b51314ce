"""The aggregator of a secure run, which stops itself while a sum is open, so that services can be killed just then.

    python -P tests/chaos/stopping.py SEED STATUS ARGUMENTS

It is `fedmq ARGUMENTS`. It stops with SIGSTOP in a drawn phase: before it saves, before it sends, between two messages,
or after all. The file STATUS then holds the phase. After SIGCONT it goes on to the next such moment.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from fedmq.aggregator.machine import Output, Phase
from fedmq.aggregator.service import Aggregator
from fedmq.cli.main import main

PHASES = (Phase.COLLECTING, Phase.CONSISTENCY, Phase.UNMASKING)
ROUNDS_MAX = 2  # that close before a stop
OUTPUTS_MAX = 3  # of the phase before a stop: it has received some of what it waits for
FLUSHED_S = 0.02  # in which libzmq sends what it has; without it, that may be lost

perform = Aggregator._perform


class Stops:
    """Moments to stop at, drawn one after another."""

    def __init__(self, seed: str, status: Path) -> None:
        self._draws, self._status = random.Random(seed), status
        self._performed = Phase.WAITING  # of the last output
        self._phase: Phase | None = None

    def _draw(self, round: int) -> None:
        self._phase = self._draws.choice(PHASES)
        self._saves = self._draws.random() < 0.75
        self._round = round + self._draws.randint(0, ROUNDS_MAX)
        self._outputs = self._draws.randint(0, OUTPUTS_MAX)

    def perform(self, aggregator: Aggregator, output: Output) -> None:
        """Do what an output says; stop in the middle if that is due.

        Before the output is saved, the phase is that of the last one.
        """
        rounds = aggregator.rounds
        if self._phase is None:
            self._draw(rounds.round)
        phase = rounds.phase if self._saves else self._performed
        self._performed = rounds.phase
        due = phase is self._phase and rounds.round >= self._round
        self._outputs -= due
        if not due or self._outputs >= 0:
            perform(aggregator, output)
            return
        sent = self._draws.randint(0, len(output.sends))
        if self._saves:
            perform(aggregator, replace(output, sends=output.sends[:sent], events=[]))
            output = replace(output, records=[], commit=False, sends=output.sends[sent:])
            time.sleep(self._draws.choice((0.0, FLUSHED_S)))
        self._status.write_text(phase.value)
        self._draw(rounds.round)
        os.kill(os.getpid(), signal.SIGSTOP)
        perform(aggregator, output)


if __name__ == "__main__":
    _, seed, status, *arguments = sys.argv
    sys.argv = ["fedmq", *arguments]
    stops = Stops(seed, Path(status))
    Aggregator._perform = lambda *arguments: stops.perform(*arguments)  # type: ignore[method-assign]
    main()
