"""`fedmq runs plot` and `fedmq runs compare`: the content of figures and tables."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fedmq import dashboard
from fedmq.cli.main import fedmq
from fedmq.dashboard.plots import compare, plot
from fedmq.errors import BadConfiguration
from fedmq.models.networks import MLP, Code, Linear, Model
from fedmq.models.trained_model import TrainedModel
from fedmq.observe import events
from fedmq.observe.event_log import EventLog
from fedmq.observe.run_state import RunState
from fedmq.runtime.run_folder import EVENTS
from fedmq.testing import run_started

XOR = MLP([2, 4, 2])
PNG = b"\x89PNG\r\n"


def genes(model: Model, seed: int) -> bytes:
    return np.random.default_rng(seed).normal(size=model.num_parameters).astype("<f8").tobytes()


def write_run(
    folder: Path,
    *,
    rounds: int = 5,
    model: Model = XOR,
    seed: int = 1,
    metric: str = "accuracy",
    algorithm: str = "evolution",
    trainer: str = "carol",
) -> Path:
    """Write the folder of a run with three trainers; one is sometimes late, one sometimes absent."""
    folder.mkdir()
    run_state, at = RunState(), [1000.0]
    log = EventLog(folder / EVENTS, run_state)

    def tell(event: events.AnyEvent) -> None:
        at[0] += 0.01
        log(at[0], event)

    tell(
        run_started(
            run=folder.name,
            term=1,
            round=1,
            task="xor",
            algorithm=algorithm,
            seed=seed,
            metric=metric,
            target=1.0,
            rounds_max=200,
            model=model,
        )
    )
    for name in ("alice", "bob", trainer):
        tell(events.TrainerJoined(trainer=name, num_examples=2))
    for number in range(1, rounds + 1):
        tell(events.RoundPublished(round=number, invited=3))
        here = [("alice", number, 0), *([("bob", number - 1, 1)] if number > 1 else [])]
        for name, answered, staleness in here:
            tell(
                events.ResultAccepted(
                    round=answered,
                    trainer=name,
                    staleness=staleness,
                    train_s=0.004,
                    answer_s=0.0 if staleness else 0.01,
                )
            )
        best = events.Best(
            value=number / rounds,
            coverage=1.0,
            fitness=-1 / number,
            fitness_mean=-2 / number,
            fitness_worst=-9.0,
            diversity=0.5,
        )
        tell(
            events.RoundClosed(
                round=number,
                why="deadline" if number == 2 else "complete",
                results=len(here),
                round_s=0.02 * number,
                present=3,
                best=best,
                late=len(here) - 1,
                rejected=0,
                bytes_up=100,
                bytes_down=1000,
            )
        )
        if not isinstance(model, Code) and model.inputs == 2:
            tell(events.BestChanged(round=number, parameters=genes(model, number)))
    tell(events.RunFinished(solved=True, rounds=rounds, value=1.0))
    log.close()
    return folder


def plotted(folder: Path, *arguments: str) -> str:
    """Return the SVG of a run."""
    target = folder / "figure.svg"
    done = CliRunner().invoke(plot, [str(folder), "-o", str(target), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return target.read_text()


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_figure_has_all_charts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one")
    svg = plotted(folder)
    assert svg == plotted(folder)  # the same run gives the same bytes
    shown = texts(svg)
    for words in ("Fitness", "best", "mean", "Accuracy", "target", "Round time", "complete", "deadline"):
        assert words in shown
    for words in (
        "Results of trainers",
        "alice",
        "bob",
        "carol",
        "late",
        "no result",
        "Best model after round 5",
        "probability of class 1",
    ):
        assert words in shown
    assert "one xor, evolution, seed 1: solved, 5 rounds" in [re.sub(r"\s+", " ", text) for text in shown]
    assert not re.findall(r"(?:href|url|src)\W+https?:", svg)  # a viewer fetches nothing


def test_surface_is_of_the_requested_round(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one")
    two, three = (plotted(folder, "--round", str(number)) for number in (2, 3))
    image = r'"data:image/png;base64,([^"]+)"'
    assert re.findall(image, two) != re.findall(image, three)
    assert "Best model after round 3" in texts(three)


@pytest.mark.parametrize("model", [MLP([4, 3, 2]), Code(num_parameters=3, inputs=2)])
def test_model_without_a_surface_is_plotted_without_it(model: Model, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", model=model)
    assert not any("Best model" in text for text in texts(plotted(folder)))
    with pytest.raises(BadConfiguration, match="--round 2: expected a model with two inputs"):
        CliRunner().invoke(plot, [str(folder), "--round", "2"], catch_exceptions=False)


@pytest.mark.parametrize(("model", "words"), [(Linear(2, 1), "value"), (MLP([2, 3, 3]), "class 2")])
def test_each_output_kind_has_a_surface(model: Model, words: str, tmp_path: Path) -> None:
    assert words in texts(plotted(write_run(tmp_path / "one", model=model, metric="loss")))


def test_surface_of_a_large_model_comes_from_its_file(tmp_path: Path) -> None:
    model = MLP([2, 200, 2])
    folder = write_run(tmp_path / "one", model=MLP([3, 2]))
    text = (folder / EVENTS).read_text().replace('"sizes":[3,2]', '"sizes":[2,200,2]')
    (folder / EVENTS).write_text(text)
    (folder / "model.npz").write_bytes(TrainedModel(model, np.zeros(model.num_parameters), "xor").to_bytes())
    assert "Best model after round 5" in texts(plotted(folder))


def test_figure_goes_into_the_run_folder_by_default(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one")
    done = CliRunner().invoke(plot, [str(folder)], catch_exceptions=False)
    assert done.output == f"{folder / 'history.png'}\n"
    assert (folder / "history.png").read_bytes().startswith(PNG)
    assert (folder / "history.png").stat().st_mode & 0o777 == 0o600


def test_figure_replaces_a_link_and_not_the_file_behind_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one")
    (tmp_path / "victim").write_text("precious")
    (folder / "history.png").symlink_to(tmp_path / "victim")
    CliRunner().invoke(plot, [str(folder)], catch_exceptions=False)
    assert (tmp_path / "victim").read_text() == "precious"
    assert (folder / "history.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "runs/nope: expected the folder of a run"),
        (("empty",), "empty: expected a closed round"),
        (("one", "-o", "one.jpg"), "one.jpg: expected a name that ends in .png, .svg, .pdf"),
        (("one", "-o", "no/such/folder.png"), "cannot be written"),
        (("one", "--round", "9"), "one: expected --round of a closed round, at most 5, got 9"),
        (("one", "--inputs", "3", "2"), "expected LOW below HIGH, got 3 2"),
    ],
)
def test_invalid_plot_is_rejected_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "one")
    write_run(tmp_path / "empty", rounds=0)
    with pytest.raises(BadConfiguration, match=re.escape(message)):
        CliRunner().invoke(plot, list(arguments), catch_exceptions=False)


def test_missing_matplotlib_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "one")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fedmq.dashboard.figures", raising=False)
    monkeypatch.delattr(dashboard, "figures", raising=False)
    with pytest.raises(
        BadConfiguration, match=re.escape("expected matplotlib to be installed: pip install 'fedmq[plot]'")
    ):
        CliRunner().invoke(plot, [str(folder)], catch_exceptions=False)


def test_comparison_has_a_line_for_each_figure(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", rounds=8, seed=2)
    done = CliRunner().invoke(fedmq, ["runs", "compare", str(one), str(two)], catch_exceptions=False)
    lines = {line.replace("≠", " ").split()[0]: line.split() for line in done.output.splitlines()}
    assert lines["run"] == ["run", "one", "two"]
    assert lines["task"] == ["task", "xor", "xor"]
    assert lines["seed"] == ["≠", "seed", "1", "2"]
    assert lines["rounds"] == ["≠", "rounds", "5", "8"]
    assert lines["train_s"] == ["≠", "train_s", "0.3", "0.72"]
    assert lines["round_s_median"] == ["≠", "round_s_median", "0.06", "0.09"]
    assert lines["results"] == ["≠", "results", "9", "15"]
    assert lines["bytes_down"] == ["≠", "bytes_down", "5000", "8000"]
    assert lines["solved"] == ["solved", "yes", "yes"]


def test_comparison_names_runs_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for night in ("mon", "tue"):
        write_run(tmp_path / "xor-1").rename(night)  # two folders, one name of the run
    done = CliRunner().invoke(compare, ["mon", "tue", "-o", "curves.svg"], catch_exceptions=False)
    lines = {line.replace("≠", " ").split()[0]: line.split() for line in done.output.splitlines()}
    assert (lines["folder"], lines["run"]) == (["folder", "mon", "tue"], ["run", "xor-1", "xor-1"])
    shown = texts((tmp_path / "curves.svg").read_text())
    assert {"mon: evolution, seed 1", "tue: evolution, seed 1"} <= set(shown)


def test_comparison_of_many_runs_cuts_nothing(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / f"xor-20260101-1200{number}-ab12", seed=number)) for number in range(10, 30)]
    lines = CliRunner().invoke(compare, runs, catch_exceptions=False).output.splitlines()
    assert {"run", "algorithm", "rounds_max", "round_s_median", "bytes_down"} <= {line[3:17].strip() for line in lines}
    task = next(at for at, line in enumerate(lines) if line[3:7] == "task")
    first, second = (line[17:].split() for line in lines[:task])
    assert [one + two for one, two in zip(first, second, strict=True)] == [Path(run).name for run in runs]


def test_comparison_writes_json_and_a_figure(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", rounds=8, seed=2)
    target = tmp_path / "curves.svg"
    done = CliRunner().invoke(compare, [str(one), str(two), "--json", "-o", str(target)], catch_exceptions=False)
    assert [(row["run"], row["seed"], row["rounds"], row["value"]) for row in json.loads(done.output)] == [
        ("one", 1, 5, 1.0),
        ("two", 2, 8, 1.0),
    ]
    shown = texts(target.read_text())
    for words in ("Best fitness", "Accuracy", f"{one}: evolution, seed 1", f"{two}: evolution, seed 2"):
        assert words in shown


def test_names_of_a_run_are_no_formulas_and_no_controls(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", algorithm="$\\frac{$\x1b[2J", trainer="$\\undefined{x}$")
    drawn = texts(plotted(folder))
    assert any(r"xor, $\frac{$?[2J, seed 1: solved" in text for text in drawn)
    assert r"$\undefined{x}$" in drawn
    target = tmp_path / "curves.svg"
    done = CliRunner().invoke(compare, [str(folder), "-o", str(target)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert rf"{folder}: $\frac{{$?[2J, seed 1" in texts(target.read_text())
