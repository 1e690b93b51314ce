"""What happened in a run, in words: one line for each event that is worth one.

Knows events, nothing of where the lines go.
"""

from __future__ import annotations

from fedmq.observe import events


def describe(event: events.AnyEvent, metric: str) -> str | None:
    """One line about `event`, or None when it is not worth one; safe on a terminal, whatever it quotes."""
    line = _of_trainer(event) or _of_run(event, metric)
    return None if line is None else printable(line)


def printable(text: str) -> str:
    """`text` without what would move a cursor or colour a screen: it may be a stranger's."""
    return "".join(one if one.isprintable() else "?" for one in text)


def best_text(best: events.Best, metric: str) -> str:
    """What the best model is worth, and on how many of the rows that is known."""
    value = value_text(best.value, metric)
    covered = "" if best.coverage >= 1.0 else f" of {best.coverage:.0%} of the rows"
    return f"{value} right{covered}" if metric == "accuracy" else f"loss {value}{covered}"


def value_text(value: float, metric: str) -> str:
    """A task's metric: the share of the rows that are right, or a loss."""
    return f"{value:.1%}".replace(".0%", "%") if metric == "accuracy" else f"{value:.5g}"


def _of_trainer(event: events.AnyEvent) -> str | None:
    match event:
        case events.TrainerJoined():
            return f"trainer {event.trainer} joined ({event.num_examples} rows)"
        case events.TrainerSuspected():
            return f"trainer {event.trainer} has not answered in time"
        case events.TrainerLeft():
            return f"trainer {event.trainer} {'said goodbye' if event.goodbye else 'is gone'}"
        case events.TrainerBarred():
            return f"trainer {event.trainer} is {event.how} by an operator"
        case events.TrainerReadmitted():
            return f"trainer {event.trainer} is readmitted by an operator"
        case events.ResultResent():
            return f"trainer {event.trainer} sent its result of round {event.round} again"
        case events.ResultRejected():
            return f"rejected from {event.trainer or 'somebody'}: {event.reason}: {event.detail}"
        case _:
            return None


def _of_run(event: events.AnyEvent, metric: str) -> str | None:
    match event:
        case events.RunStarted(again=False):
            return f"run {event.run}: task {event.task}, strategy {event.strategy}, seed {event.seed}"
        case events.RunStarted():
            return f"run {event.run} goes on at round {event.round}"
        case events.Waiting():
            return f"waiting for trainers ({event.present} of {event.needed})"
        case events.Stalled():
            return f"nothing has come for {event.seconds:.0f} s; missing: {', '.join(event.missing) or 'nobody'}"
        case events.RunPaused():
            return "paused; fedmq runs resume goes on"
        case events.RunResumed():
            return "resumed"
        case events.CheckpointKept():
            return f"the state after round {event.round} is on disk"
        case events.RunFinished():
            return f"the run is over after {event.rounds} rounds: {event.verdict}"
        case events.RoundClosed():
            return _of_round(event, metric)
        case _:
            return None


def _of_round(event: events.RoundClosed, metric: str) -> str:
    best = event.best
    figures = "nothing scored yet"
    if best is not None:
        figures = f"{best_text(best, metric)}  fitness best {best.fitness:.4f} mean {best.fitness_mean:.4f}"
    return (
        f"round {event.round:>3}  {figures}  {event.results} results of {event.present} trainers  "
        f"{event.round_s * 1000:.1f} ms{'' if event.why == 'complete' else '  (' + event.why + ')'}"
    )
