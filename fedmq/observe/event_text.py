"""Text of events: one line for each event worth a line."""

from fedmq.observe import events

LINES: dict[type, str] = {
    events.TrainerJoined: "trainer {0.trainer} joined ({0.num_examples} rows)",
    events.TrainerSuspected: "trainer {0.trainer} missed a deadline",
    events.TrainerSilent: "trainer {0.trainer} is silent: no result in {0.missed} rounds, which wait for it no more",
    events.TrainerReturned: "trainer {0.trainer} answers again, after {0.missed} missed rounds",
    events.TrainerBarred: "trainer {0.trainer} was {0.how}",
    events.TrainerReadmitted: "trainer {0.trainer} was readmitted",
    events.ResultResent: "trainer {0.trainer} sent its result of round {0.round} again",
    events.RunStarted: "run {0.config.run} continues at round {0.round}",
    events.Waiting: "waiting for trainers ({0.present} of {0.needed})",
    events.RunPaused: "paused; continue with fedmq runs resume",
    events.RunResumed: "resumed",
    events.CheckpointKept: "the state after round {0.round} is on disk",
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
        case events.TrainerBarred(how="duplicated"):
            return f"several trainers are named {event.trainer}: none of them takes part; give each its own --name"
        case events.ResultRejected():
            return f"rejected from {event.trainer or 'an unknown sender'}: {event.reason}: {event.detail}"
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


def trainer_note(reason: str, detail: str, *, silent: bool = False) -> str:
    """Return why a trainer contributes nothing, by its goodbye or because it is `silent`; "" if that is not known."""
    if reason in ("", "leaving"):
        return "left" if reason else "silent" if silent else ""
    return f"declined the run: {reason}{': ' * bool(detail)}{detail}"


def best_text(best: events.Best, metric: str) -> str:
    """Return the value of the best model, and the share of the rows it was scored on if that is not all."""
    value = value_text(best.value, metric)
    covered = "" if best.coverage >= 1.0 else f" of {best.coverage:.0%} of the rows"
    return f"{value} right{covered}" if metric == "accuracy" else f"loss {value}{covered}"


def value_text(value: float, metric: str) -> str:
    """Return a value of a task's metric: an accuracy in percent, or a loss."""
    return f"{value:.1%}".replace(".0%", "%") if metric == "accuracy" else f"{value:.5g}"


def _of_round(event: events.RoundClosed, metric: str) -> str:
    best = event.best
    figures = "nothing scored yet"
    if best is not None:
        figures = f"{best_text(best, metric)}  fitness best {best.fitness:.4f} mean {best.fitness_mean:.4f}"
    notes: list[str] = [] if event.why == "complete" else [event.why]
    if event.restarted:
        notes.append("the pool restarted at random: no better loss was found; the best model is kept")
    if event.saturated:
        notes.append(f"{event.saturated} losses saturate: they are too large for --score-bits")
    return (
        f"round {event.round:>3}  {figures}  {event.results} results of {event.present} trainers  "
        f"{event.round_s * 1000:.1f} ms{''.join(f'  ({note})' for note in notes)}"
    )
