"""What happened in a run, in words: one line for each event that is worth one.

Knows events, nothing of where the lines go.
"""

from __future__ import annotations

from fedmq import events


def describe(event: events.AnyEvent, metric: str) -> str | None:
    """One line about `event`, or None when it is not worth one."""
    match event:
        case events.RunStarted(epoch=1):
            return f"run {event.run}: task {event.task}, strategy {event.strategy}, seed {event.seed}"
        case events.RunStarted():
            return f"run {event.run} goes on at round {event.round} (epoch {event.epoch})"
        case events.Waiting():
            return f"waiting for trainers ({event.present} of {event.needed})"
        case events.RunPaused():
            return "paused; fedmq runs resume goes on"
        case events.RunResumed():
            return "resumed"
        case events.TrainerJoined():
            return f"trainer {event.trainer} joined ({event.samples} rows)"
        case events.TrainerLeft():
            return f"trainer {event.trainer} {'said goodbye' if event.goodbye else 'is gone'}"
        case events.ResultRejected():
            detail = "".join(one if one.isprintable() else "?" for one in event.detail)  # it may quote what came
            return f"rejected from {event.trainer or 'somebody'}: {event.reason}: {detail}"
        case events.RoundClosed():
            best = event.best
            figures = "nothing scored yet" if best is None else _figures(best, metric)
            return (
                f"round {event.round:>3}  {figures}  {event.results} results of {event.present} trainers  "
                f"{event.round_s * 1000:.1f} ms{'' if event.why == 'complete' else '  (' + event.why + ')'}"
            )
        case _:
            return None


def _figures(best: events.Best, metric: str) -> str:
    covered = "" if best.coverage >= 1.0 else f" of {best.coverage:.0%} of the rows"
    value = f"{best.value:.0%} right" if metric == "accuracy" else f"loss {best.value:.5f}"
    return f"{value}{covered}  fitness best {best.fitness:.4f} mean {best.fitness_mean:.4f}"
