"""Text of events: one line for each event worth a line."""

from collections.abc import Sequence

from fedmq.algorithms.differences import Difference
from fedmq.algorithms.evaluation.figures import Baseline, Metrics, SiteSpread
from fedmq.observe import events

DIFFERENCES_SHOWN_MAX = 3  # in one line
LINES: dict[type, str] = {
    events.TrainerJoined: "trainer {0.trainer} joined ({0.num_examples} rows)",
    events.TrainerSuspected: "trainer {0.trainer} missed a deadline",
    events.TrainerSilent: "trainer {0.trainer} is silent: no result in {0.missed} rounds, which wait for it no more",
    events.TrainerReturned: "trainer {0.trainer} answers again, after {0.missed} missed rounds",
    events.TrainerReadmitted: "trainer {0.trainer} was readmitted",
    events.ResultResent: "trainer {0.trainer} sent its result of round {0.round} again",
    events.RunStarted: "run {0.config.run} continues at round {0.round}",
    events.SumAbandoned: "the secure sum of round {0.round} was abandoned: {0.why}",
    events.RunPaused: "paused; continue with fedmq runs resume",
    events.RunResumed: "resumed",
    events.CheckpointKept: "the state after round {0.round} is on disk",
}
BARRED = {
    "drained": "trainer {0.trainer} was drained",
    "banned": "trainer {0.trainer} was banned",
    "duplicated": "several trainers are named {0.trainer}: none of them takes part; give each its own --name",
    "unselected": "trainer {0.trainer} takes no part: it has not the labels of --select",
}


def event_line(event: events.AnyEvent, metric: str) -> str | None:
    """Return one line about `event`, or None if the event is not worth a line."""
    match event:
        case events.TrainerLeft():
            how = trainer_note(event.reason, event.detail) or ("left" if event.goodbye else "disconnected")
            return f"trainer {event.trainer} {how}"
        case events.RunFinished():
            detail = f": {event.detail}" if event.detail else ""
            return f"the run is over after {event.rounds} rounds: {event.verdict}{detail}"
        case events.Waiting():
            return _of_wait(event)
        case events.TrainerBarred():
            return BARRED[event.how].format(event)
        case events.ResultRejected():
            return f"rejected from {event.trainer or 'an unknown sender'}: {event.reason}: {event.detail}"
        case events.SiteDiffers():
            return differences_text(event.trainer, event.differences)
        case events.RunStarted(config=config, again=False):
            return f"run {config.run}: task {config.task.name}, algorithm {config.algorithm}, seed {config.seed}"
        case events.Stalled():
            missing = f"; missing: {', '.join(event.missing)}" if event.missing else ""
            return f"no result for {event.seconds:.0f} s{missing}"
        case events.RoundClosed():
            return _of_round(event, metric)
        case _:
            text = LINES.get(type(event))
            return None if text is None else text.format(event)


def _of_wait(event: events.Waiting) -> str:
    text = f"waiting for trainers ({event.present} of {event.needed})"
    if not event.declined:
        return text
    names = ", ".join(event.declined)
    return f"{text}; declined by {names}: {event.why}: start other trainers, or restart these with other settings"


def differences_text(trainer: str, differences: Sequence[Difference]) -> str:
    """Return how the rows of a trainer differ from those of the others, in one line."""
    if not differences:
        return f"the rows of {trainer} differ no more from those of the others"
    shown = [f"{one.column or 'labels'}: {one.detail}" for one in differences[:DIFFERENCES_SHOWN_MAX]]
    more = len(differences) - len(shown)
    return f"the rows of {trainer} differ: {'; '.join(shown)}{f'; and {more} more columns' if more > 0 else ''}"


def trainer_note(reason: str, detail: str, *, silent: bool = False) -> str:
    """Return why a trainer contributes nothing, by its goodbye or because it is `silent`; "" if that is not known."""
    if reason in ("", "leaving"):
        return "left" if reason else "silent" if silent else ""
    return f"declined the run: {reason}{': ' * bool(detail)}{detail}"


def best_text(best: events.Best, metric: str) -> str:
    """Return the value of the best model, and the share of the rows it was scored on if that is not all."""
    value = value_text(best.value, metric)
    covered = "" if best.coverage >= 1.0 else f" of {best.coverage:.0%} of the rows"
    covered += " held out" if best.value_of == "held-out" else ""
    return f"{value} right{covered}" if metric == "accuracy" else f"loss {value}{covered}"


def held_out_text(best: events.Best, metric: str) -> str:
    """Return further figures on held-out rows, then the metric on the rows trained on; "" without held-out rows."""
    if best.value_of == "training":
        return ""
    figures = [
        f"{name} {text.format(value)}"
        for name, text, value in (
            ("balanced", "{:.1%}", best.balanced_accuracy),
            ("AUC", "{:.3f}", best.auc),
            ("RMSE", "{:.4g}", best.rmse),
            ("R²", "{:.3f}", best.r2),
        )
        if value is not None
    ]
    training = "" if best.training is None else f"{value_text(best.training, metric)} on training rows"
    return ", ".join([*figures, *([training] if training else [])])


def value_text(value: float, metric: str) -> str:
    """Return a value of a task's metric: an accuracy in percent, or a loss."""
    return f"{value:.1%}".replace(".0%", "%") if metric == "accuracy" else f"{value:.5g}"


def _of_round(event: events.RoundClosed, metric: str) -> str:
    best = event.best
    figures = "nothing scored yet"
    if best is not None:
        more = held_out_text(best, metric) or f"fitness best {best.fitness:.4f} mean {best.fitness_mean:.4f}"
        figures = f"{best_text(best, metric)}  {more}"
    figures += "".join(f"  {name} {value:.4g}" for name, value in (event.metrics or {}).items())
    notes: list[str] = [event.why] if event.why in ("deadline", "spent") else []
    if event.restarted:
        notes.append("the pool restarted at random: no better loss was found; the best model is kept")
    if event.saturated:
        notes.append(f"{event.saturated} losses saturate: they are too large for --score-bits")
    what = f"secure sum of {event.results}" if event.secure else f"{event.results} results"
    return (
        f"round {event.round:>3}  {figures}  {what} of {event.invited or event.present} trainers  "
        f"{event.round_s * 1000:.1f} ms{''.join(f'  ({note})' for note in notes)}"
    )


def metrics_text(metrics: Metrics) -> str:
    """Return the single figures of a model on one line, and how many rows they are of."""
    figures = [
        f"{name} {text.format(value)}"
        for name, text, value in (
            ("accuracy", "{:.1%}", metrics.accuracy if metrics.rmse is None else None),
            ("balanced", "{:.1%}", metrics.balanced_accuracy),
            ("AUC", "{:.4f}", metrics.auc),
            ("log-loss", "{:.4f}", metrics.log_loss),
            ("Brier", "{:.4f}", metrics.brier),
            ("RMSE", "{:.5g}", metrics.rmse),
            ("MAE", "{:.5g}", metrics.mae),
            ("R²", "{:.4f}", metrics.r2),
        )
        if value is not None
    ]
    of_trainers = "" if metrics.trainers == 1 else f" of {metrics.trainers} trainers"
    return ", ".join([*figures, f"{metrics.rows} rows{of_trainers}"])


def baseline_lines(found: Sequence[Baseline]) -> list[str]:
    """Return a table of models with and without federation, on the held-out rows of all trainers."""
    measured = [one.held_out for one in found if one.held_out is not None]
    columns = {name: text for name, text in _COLUMNS.items() if any(getattr(one, name) is not None for one in measured)}
    if any(one.rmse is not None for one in measured):
        columns.pop("accuracy", None)
    lines = [["", *(heading for heading, _ in columns.values())]]
    for one in found:
        figures = one.held_out
        cells = (
            [one.failure] if figures is None else [_cell(getattr(figures, name), columns[name][1]) for name in columns]
        )
        lines.append([f"{one.trainer} alone" if one.rows == "alone" else one.rows, *cells])
    first = max(len(line[0]) for line in lines)
    return [f"{line[0]:<{first}}  {'  '.join(f'{cell:>9}' for cell in line[1:])}".rstrip() for line in lines]


_COLUMNS = {
    "accuracy": ("accuracy", "{:.1%}"),
    "balanced_accuracy": ("balanced", "{:.1%}"),
    "auc": ("AUC", "{:.4f}"),
    "log_loss": ("log-loss", "{:.4f}"),
    "rmse": ("RMSE", "{:.5g}"),
    "mae": ("MAE", "{:.5g}"),
    "r2": ("R²", "{:.4f}"),
}


def _cell(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)


def spread_text(spread: SiteSpread) -> str:
    """Return the worst and the best trainer on one line."""
    text = "{:.1%}" if spread.figure == "accuracy" else "{:.4g}"
    worst, best, deviation = (text.format(one) for one in (spread.worst_value, spread.best_value, spread.deviation))
    return f"held-out {spread.figure} from {worst} ({spread.worst}) to {best} ({spread.best}), deviation {deviation}"
