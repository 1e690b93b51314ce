"""Training and scoring by code of the site's own: `fit` and `evaluate` of one Python file, in any framework.

    fit(parameters, data, config, rng) -> (parameters, num_examples, metrics)
    evaluate(parameters, data, config) -> (loss, num_examples, metrics)

`parameters` is (num_parameters,) float64, `data` the trainer's `Rows`, `rng` a numpy Generator of this round. `config`
is a dict, `loss` a mean per row. The operator of the trainer names the file: nothing of it comes from the network. It
runs in the trainer's process, on a thread with a time limit.
"""

import ctypes
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import row_loss_max
from fedmq.errors import BadConfiguration, LearnerFailed, WorkCancelled, named
from fedmq.models.arrays import Floats
from fedmq.models.losses import Scores
from fedmq.protocol.messages import METRICS_MAX
from fedmq.runtime.python_file import importable, run_file
from fedmq.tasks.task import Rows, Task

METRIC_NAME_MAX = 32  # characters
METRIC_MAX = 1e300
SHARE_OF_TIME = 0.95  # of --work-seconds-max: the line that names the place comes before the one of the session
POLL_S = 0.02
ACCURACY = "accuracy"  # the metric from which correct rows are counted

log = logging.getLogger(__name__)

Cancelled = Callable[[], bool]


class OwnLearner:
    """The functions of FILE.py:NAME: NAME trains, and `evaluate`, if the file has it, scores.

    Raises:
        BadConfiguration: the file fails, or defines no such function.
    """

    def __init__(self, spec: str, seconds: float) -> None:
        path, _, name = spec.rpartition(":")
        if not path.endswith(".py") or not name:
            raise BadConfiguration(f"--learner: expected FILE.py:NAME, such as my_site.py:fit, got {spec!r:.80}")
        self._path, self._seconds = Path(path), SHARE_OF_TIME * seconds
        names = run_file(self._path, "that defines the functions of a learner")
        if not callable(names.get(name)):
            raise BadConfiguration(f"{path}: expected a function {name}(parameters, data, config, rng): define it")
        self._fit = cast(Callable[..., object], names[name])
        evaluate = names.get("evaluate")
        self._evaluate = cast(Callable[..., object], evaluate) if callable(evaluate) else None
        self._left: threading.Thread | None = None  # code that did not end in time
        self._left_at = ""

    @property
    def scores(self) -> bool:
        """Whether the file scores models itself."""
        return self._evaluate is not None

    def on_round(
        self, task: Task, rows: Rows, settings: Mapping[str, Any], number: int, cancelled: Cancelled
    ) -> "OwnRound":
        """Return the functions with the rows of this trainer, for round `number`."""
        return OwnRound(self, task, rows, {**settings, "task": task.name, "round": number}, cancelled)

    def fit(self, cancelled: Cancelled, *arguments: object) -> tuple[object, str]:
        """Return what `fit` returned, and the place in the file to name in errors."""
        return self._call("fit", self._fit, arguments, cancelled), self._place(self._fit)

    def evaluate(self, cancelled: Cancelled, *arguments: object) -> tuple[object, str]:
        """Return what `evaluate` returned, and the place in the file to name in errors."""
        assert self._evaluate is not None
        return self._call("evaluate", self._evaluate, arguments, cancelled), self._place(self._evaluate)

    def _call(
        self, what: str, function: Callable[..., object], arguments: tuple[object, ...], cancelled: Cancelled
    ) -> object:
        """Call a function on a thread; it cannot be killed, so one that does not end blocks further calls.

        Raises:
            LearnerFailed: it raised an exception, or did not end in time.
            WorkCancelled: the work was cancelled meanwhile.
        """
        if self._left is not None and self._left.is_alive():
            raise LearnerFailed(f"{self._left_at}: expected an end of {what}, it still runs: restart this trainer")
        returned: list[object] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                with importable(self._path.parent):
                    returned.append(function(*arguments))
            except BaseException as error:  # noqa: BLE001  SystemExit too: it is reported as any other
                raised.append(error)

        thread = threading.Thread(target=run, name="learner", daemon=True)
        thread.start()
        thread.join(self._seconds)
        if thread.is_alive():
            self._left, self._left_at = thread, self._where(sys._current_frames().get(thread.ident or 0))
            _interrupt(thread)
            raise LearnerFailed(f"{self._left_at}: expected {what} to end within {self._seconds:g} s, it still runs")
        if cancelled():
            raise WorkCancelled(f"{what} is needless: the work was cancelled")
        if raised:
            place, kind = self._place_of(raised[0]), type(raised[0]).__name__
            raise LearnerFailed(f"{place}: {what} raised {named(raised[0])}", f"{place}: {what} raised {kind}")
        return returned[0]

    def _place(self, function: Callable[..., object]) -> str:
        code = getattr(function, "__code__", None)
        return self._path.name if code is None else f"{self._path.name}:{code.co_firstlineno}"

    def _place_of(self, error: BaseException) -> str:
        """Return file and line of the innermost frame in the file."""
        own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if self._is_own(frame.filename)]
        return f"{self._path.name}:{own[-1]}" if own else self._path.name

    def _where(self, frame: FrameType | None) -> str:
        while frame is not None and not self._is_own(frame.f_code.co_filename):
            frame = frame.f_back
        return self._path.name if frame is None else f"{self._path.name}:{frame.f_lineno}"

    def _is_own(self, filename: str) -> bool:
        return Path(filename).name == self._path.name and Path(filename).resolve() == self._path.resolve()


class OwnRound:
    """The functions of a learner in one round. `metrics` and `num_examples` are what they returned beside the rest."""

    def __init__(
        self, learner: OwnLearner, task: Task, rows: Rows, config: dict[str, Any], cancelled: Cancelled
    ) -> None:
        self._learner, self._task, self._rows, self._config, self._cancelled = learner, task, rows, config, cancelled
        self.num_examples = len(rows.inputs)
        self.metrics: dict[str, float] = {}

    @property
    def scores(self) -> Callable[[Floats], Scores] | None:
        """The function that scores candidates; None if the file has none."""
        return self.score if self._learner.scores else None

    @property
    def outcome(self) -> tuple[int, Mapping[str, float]]:
        """The number of rows that were used, and the metrics."""
        return self.num_examples, self.metrics

    def fit(self, parameters: Floats, rng: np.random.Generator) -> Floats:
        """Return the trained parameters (num_parameters,) float64.

        Raises:
            LearnerFailed: the code failed, or returned something else than it must.
            WorkCancelled: the work was cancelled.
        """
        arguments = (parameters.copy(), self._rows, dict(self._config), rng)
        returned, place = self._learner.fit(self._cancelled, *arguments)
        trained, self.num_examples = self._taken(returned, place, "parameters")
        array = _numbers(trained, place, "parameters from fit")
        if array.shape != parameters.shape:
            raise LearnerFailed(f"{place}: expected parameters of shape {parameters.shape} from fit, got {array.shape}")
        return array

    def score(self, population: Floats) -> Scores:
        """Return summed losses and correct rows of (population, num_parameters); errors as `fit`."""
        losses, correct = np.zeros(len(population)), np.zeros(len(population), np.int64)
        rows = len(self._rows.inputs)
        for place_in, parameters in enumerate(population):
            arguments = (parameters.copy(), self._rows, dict(self._config))
            returned, place = self._learner.evaluate(self._cancelled, *arguments)
            before = self.metrics
            loss, _ = self._taken(returned, place, "loss")
            mean = _numbers(loss, place, "a loss from evaluate")
            if mean.shape != () or mean < 0:
                raise LearnerFailed(f"{place}: expected a loss of at least 0 from evaluate, got another value")
            losses[place_in] = min(float(mean), row_loss_max(self._task)) * rows
            accuracy = self.metrics.get(ACCURACY, 0.0)
            if not 0.0 <= accuracy <= 1.0:
                raise LearnerFailed(f"{place}: expected the metric accuracy from 0 to 1")
            correct[place_in] = round(accuracy * rows)
            self.metrics = {**before, **self.metrics} if place_in == 0 else before  # those of the first candidate
        return Scores(losses, correct)

    def _taken(self, returned: object, place: str, first: str) -> tuple[object, int]:
        """Return the first value and the number of rows; keep the metrics."""
        if not isinstance(returned, tuple) or len(returned) != 3:
            got = f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__
            raise LearnerFailed(f"{place}: expected ({first}, num_examples, metrics), got {got}")
        value, count, metrics = returned
        rows = len(self._rows.inputs)
        if not isinstance(count, int | np.integer) or not 1 <= count <= rows:
            raise LearnerFailed(f"{place}: expected num_examples from 1 to the rows of data, got another value")
        if not isinstance(metrics, Mapping) or len({*metrics, *self.metrics}) > METRICS_MAX:
            raise LearnerFailed(f"{place}: expected at most {METRICS_MAX} metrics by name")
        for name, number in metrics.items():
            if not isinstance(name, str) or not 1 <= len(name) <= METRIC_NAME_MAX or not name.isprintable():
                raise LearnerFailed(f"{place}: expected names of metrics of 1 to {METRIC_NAME_MAX} characters")
            found = _numbers(number, place, f"a number for the metric {name}")
            if found.shape != () or not abs(found) <= METRIC_MAX:
                raise LearnerFailed(f"{place}: expected one number for the metric {name}, got shape {found.shape}")
            self.metrics = {**self.metrics, name: float(found)}
        return value, int(count)


def _numbers(value: object, place: str, what: str) -> Floats:
    try:
        array = np.asarray(cast(npt.ArrayLike, value))
        if array.dtype.kind not in "biuf":
            raise TypeError(array.dtype)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor that requires its gradient
        raise LearnerFailed(f"{place}: expected {what}, got {type(value).__name__}") from error
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise LearnerFailed(f"{place}: expected {what} that is finite, got NaN or infinity")
    return cast(Floats, array)


def _interrupt(thread: threading.Thread) -> None:
    """Raise SystemExit in a thread: it ends a loop in Python, but no call of another library."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
