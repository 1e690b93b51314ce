"""The store of an aggregator and all frames of a run with faults give totals, and no single answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import secure_scene
from secure_adversary import Adversary, Secrets, log_of

from fedmq.algorithms.registry import find_algorithm
from fedmq.models.networks import MLP
from fedmq.protocol.codec import Frames
from fedmq.protocol.run_config import Limits
from fedmq.runs.store import Store
from fedmq.secure_sums.messages import (
    EncryptedShares,
    ListSignature,
    MaskedInput,
    Opening,
    RevealedShares,
    SignedSurvivors,
    SumMessage,
)
from fedmq.secure_sums.policy import colluders_max, default_threshold
from fedmq.secure_sums.trainer import SumTrainer
from fedmq.security.keys import PublicIdentity
from fedmq.simulation.federation import AGGREGATOR, Federation
from fedmq.tasks.task import Rows, Task

NAMES = ("t0", "t1", "t2", "t3")
TASK = Task(
    name="classes", model=MLP((3, 4, 2)), loss="cross-entropy", metric="accuracy", target=1.0, trainers=4, rounds=6
)
STEPS = (EncryptedShares, MaskedInput, ListSignature, RevealedShares)


class Recorded:
    """What the test knows and an aggregator does not: each secret of a trainer, and each plain answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secrets: list[tuple[str, Secrets]] = []
        self.plain: dict[tuple[bytes, str], np.ndarray] = {}
        begin, answer = SumTrainer.__init__, SumTrainer.answer

        def begins(trainer: SumTrainer, name: Any, identity: Any, *others: Any, **more: Any) -> None:
            begin(trainer, name, identity, *others, **more)
            self.secrets.append((identity.name, Secrets.of(trainer)))

        def answers(trainer: SumTrainer, opening: Opening, values: np.ndarray) -> Any:
            output = answer(trainer, opening, values)
            self.plain[opening.question, trainer._identity.name] = values.copy()
            return output

        monkeypatch.setattr(SumTrainer, "__init__", begins)
        monkeypatch.setattr(SumTrainer, "answer", answers)
        monkeypatch.setattr(PublicIdentity, "verifies", secure_scene.once(PublicIdentity.verifies))

    def of(self, spies: tuple[str, ...]) -> list[Secrets]:
        return [one for name, one in self.secrets if name in spies]

    def check(self, learned: dict[tuple[str, bytes, str], int], value: np.ndarray) -> None:
        """Check that an equation of the adversary has the true value."""
        total = np.zeros(len(value), np.uint64)
        for (_, question, name), factor in learned.items():
            total += np.uint64(factor % 2**64) * self.plain[question[:32], name].view(np.uint64)
        assert (total == value).all()


def in_the_clear(values: np.ndarray) -> list[bytes]:
    """Return the bytes that a frame or a store would have of an answer; [] if it has too few different numbers."""
    part = values[: len(values) // 2]  # of the first array
    narrow = [part.astype(dtype) for dtype in ("<i8", "<i4", "<i2")]
    return [one.tobytes() for one in narrow if (one == part).all()] if len(set(part.tolist())) > 10 else []


def run(
    folder: Path, fault: Callable[[Federation, str, SumMessage], None], *, secure: bool = True, least: int = 3
) -> tuple[Any, ...]:
    """Run six rounds; `fault` sees each message of a secure sum as it passes the broker. Return run, frames, store."""
    draws = np.random.default_rng(1)
    rows = {name: Rows(draws.normal(size=(20, 3)), draws.integers(0, 2, 20).astype(float)) for name in NAMES}
    strategy = find_algorithm("es", TASK, {"pairs": 40, "starts": 1})
    limits = Limits(rounds_max=6, min_trainers=least, quorum=0.5, staleness=0, deadline_s=2.0)
    store = Store(folder / "store.sqlite3")
    scene = Federation(TASK, strategy, rows, seed=1, limits=limits, store=store, secure=secure, work_s=(0.1, 0.2))
    frames: list[Frames] = []

    def note(_at: float, what: str, name: str, one: Frames | None) -> None:
        if what == "up" and one is not None:  # to the broker, whether an aggregator is there to receive it or not
            frames.append(one)
            for trainer, message in log_of([one]):
                fault(scene, trainer, message)

    scene.simulation.trace = note
    scene.train(600.0)
    assert scene.finished
    store.close()
    return scene, frames, b"".join(path.read_bytes() for path in folder.iterdir())


def once_each(*faults: tuple[str, type, str]) -> Callable[[Federation, str, SumMessage], None]:
    """Crash a part when a message of this kind passes the first time, for (part, kind, sender or ""), for 0.3 s."""
    left = list(faults)

    def fault(scene: Federation, trainer: str, message: SumMessage) -> None:
        for one in list(left):
            part, kind, sender = one
            if isinstance(message, kind) and sender in ("", trainer):
                left.remove(one)
                scene.simulation.crash(part)
                scene.simulation.at(scene.simulation.clock.now() + 0.3, lambda part=part: scene.simulation.start(part))

    return fault


CASES: dict[str, Callable[[], Callable[[Federation, str, SumMessage], None]]] = {
    "nothing": lambda: lambda scene, trainer, message: None,
    **{f"drop-out-{step.__name__}": lambda step=step: once_each(("t0", step, "t0")) for step in STEPS},
    "aggregator": lambda: once_each(*((AGGREGATOR, step, "") for step in (*STEPS, SignedSurvivors))),
    "all": lambda: once_each(*itertools.product(("t0",), STEPS, ("t0",)), (AGGREGATOR, SignedSurvivors, "")),
}


@pytest.mark.parametrize("case", CASES)
def test_frames_and_store_of_a_run_give_totals_and_no_single_answer(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    _, frames, stored = run(tmp_path, CASES[case]())
    log, threshold = log_of(frames), default_threshold(len(NAMES))
    if case == "nothing":
        shares = [one for one in log if isinstance(one[1], EncryptedShares)]
        assert len(shares) == len(set(shares)), "none is sent twice where nothing is lost"
    for colluders in range(colluders_max(len(NAMES), threshold) + 1):
        spies = NAMES[len(NAMES) - colluders :]
        found = Adversary(log, recorded.of(spies))
        assert not found.singles()
        questions = [{question for _, question, _ in one.unknowns} for one in found.learned]
        assert all(len(one) == 1 for one in questions)
        assert len(set.union(*questions)) == len(questions) >= 5
        for one in found.learned:
            assert len(one.unknowns) >= threshold - colluders
            assert len(set(one.unknowns.values())) == 1  # a plain total
            recorded.check(one.unknowns, one.value)
    everything = Adversary(log, recorded.of(NAMES[1:])).singles()  # a threshold of colluders
    assert set(everything) == {"t0"}
    recorded.check(everything["t0"].unknowns, everything["t0"].value)
    searched = found_in_the_clear(recorded.plain.values(), frames, stored)
    assert len(searched) >= 3 * threshold  # of at least three rounds of slopes
    assert not any(searched)


def found_in_the_clear(answers: Iterable[np.ndarray], frames: list[Frames], stored: bytes) -> list[bool]:
    """Return for each answer of many numbers whether frames or store have it."""
    seen = b"".join(part for one in frames for part in one) + stored
    return [any(one in seen for one in forms) for forms in map(in_the_clear, answers) if forms]


def test_search_finds_plain_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same questions without masks: a run has the same answers with and without them."""
    recorded = Recorded(monkeypatch)
    (tmp_path / "secure").mkdir()
    (tmp_path / "plain").mkdir()
    secure, _, _ = run(tmp_path / "secure", CASES["nothing"](), least=4)
    plain, frames, stored = run(tmp_path / "plain", CASES["nothing"](), least=4, secure=False)
    searched = found_in_the_clear(recorded.plain.values(), frames, stored)
    assert searched.count(True) > len(searched) / 2  # others begin with several arrays
    assert secure.model.to_bytes() == plain.model.to_bytes()
