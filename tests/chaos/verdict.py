"""The verdict on a finished run from its folder, its store and the logs of its services."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from federation import Service, run_fedmq
from schedule import TRAINERS

from fedmq.runs.store import Store

ACCEPTED = re.compile(rb"the result of round (\d+) of run chaos is accepted")
BROKEN = ("Traceback", "fedmq: unexpected", "Fatal Python error", "Assertion failed")


class Verdict(NamedTuple):
    """The figures of a run, and the list of violations."""

    rounds: int
    results: int
    terms: int
    seen_accepted: int
    model_sha256: str
    wrong: list[str]


async def judge(folder: Path, services: dict[str, Service]) -> Verdict:
    """Check a finished run in `folder` and the logs of `services`."""
    wrong = list(_broken_logs(services))
    report = json.loads((folder / "report.json").read_text()) if (folder / "report.json").exists() else None
    if report is None or not report["solved"]:
        wrong.append(f"expected a solved run, got {'no report' if report is None else report}")
    store = Store(folder / "store.sqlite3")
    try:
        closed = [close.round for close in store.closes()]
        kept = Counter(
            (result.round, result.trainer) for number in (*closed, len(closed) + 1) for result in store.results(number)
        )
    finally:
        store.close()
    if closed != list(range(1, len(closed) + 1)):
        wrong.append(f"expected the rounds 1 to {len(closed)} to be closed once each, got {closed}")
    seen = {(number, name) for name in TRAINERS for number in _accepted(services[name])}
    wrong += [
        f"{name} logged its result of round {number} as accepted; the store has lost it"
        for number, name in seen - kept.keys()
    ]
    if not seen:
        wrong.append("expected accepted results in the logs of the trainers, got none")
    wrong += [f"the store has the result of {key} {count} times" for key, count in kept.items() if count > 1]
    wrong += _against_report(report, closed, kept)
    started, logged = _events(folder)
    wrong += [f"the event log closes round {number} {count} times" for number, count in logged.items() if count > 1]
    replayed = await _replayed(folder, services)
    if report is not None and replayed != report["model_sha256"]:
        wrong.append(f"the replay gives the model {replayed}, the report {report['model_sha256']}")
    return Verdict(len(closed), kept.total(), started, len(seen), replayed, wrong)


def _broken_logs(services: dict[str, Service]) -> Iterator[str]:
    for name, service in services.items():
        log = service.err.read_text(errors="replace") if service.err.exists() else ""
        for text in BROKEN:
            if text in log:
                place = log.index(text)
                yield f"{name}.err has {text!r}: {log[place : place + 2000]}"


def _accepted(service: Service) -> Iterator[int]:
    return (int(number) for number in ACCEPTED.findall(service.err.read_bytes()))


def _against_report(report: dict[str, Any] | None, closed: list[int], kept: Counter[tuple[int, str]]) -> Iterator[str]:
    """Compare the counts of the report with the store."""
    if report is None:
        return
    if report["rounds"] != len(closed):
        yield f"the report says {report['rounds']} rounds, the store {len(closed)}"
    stored = Counter(trainer for _, trainer in kept.elements())
    counted = {one["name"]: one["results"] for one in report["trainers"]}
    for name in TRAINERS:
        if counted.get(name, 0) != stored[name]:
            yield f"the report counts {counted.get(name, 0)} results of {name}, the store holds {stored[name]}"


def _events(folder: Path) -> tuple[int, Counter[int]]:
    """Return the number of starts in the event log, and the number of closes of each round."""
    lives, closes = 0, Counter[int]()
    for line in (folder / "events.jsonl").read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # torn by a crash
            continue
        lives += event["event"] == "run-started"
        if event["event"] == "round-closed":
            closes[event["round"]] += 1
    return lives, closes


async def _replayed(folder: Path, services: dict[str, Service]) -> str:
    code, out, errors = await run_fedmq(folder, "runs", "replay", str(folder), "--json")
    if code != 0:
        return f"exit code {code}: {errors.strip()}"
    return str(json.loads(out)["model_sha256"])
