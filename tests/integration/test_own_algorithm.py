"""Algorithms of the user across real processes: in a file, installed, broken, and a query that no trainer knows."""

from __future__ import annotations

from pathlib import Path

from services import Services, events_of, report_of, run_fedmq, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "openai_es.py"
TRAINER = ("--min-rows", "1")


def install(folder: Path, source: str) -> Path:
    """Write a package that is installed as far as Python can tell: a module beside its metadata."""
    site = folder / "site"
    info = site / "es_package-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "es_package.py").write_text(source, encoding="utf-8")
    (site / "es_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: es-package\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(
        "[fedmq.algorithms]\nopenai-es = es_package:OpenAIES\n[fedmq.learners]\nmine = es_package:LEARNER\n"
    )
    return site


def test_algorithm_in_a_file_trains_xor_and_its_run_can_be_replayed(tmp_path: Path) -> None:
    done = run_fedmq(
        *("demo", "--algorithm", f"{EXAMPLE}:OpenAIES", "--param", "pairs=40", "--seed", "1", "--out", "run"),
        cwd=tmp_path,
        timeout_s=60.0,
    )
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "run")
    assert report["solved"]
    assert report["config"]["algorithm"] == f"{EXAMPLE}:OpenAIES"
    assert report["config"]["parameters"]["pairs"] == 40
    again = run_fedmq("runs", "replay", "run", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert report["model_sha256"] in again.stdout


def test_installed_algorithm_trains_xor(tmp_path: Path) -> None:
    site = install(tmp_path, EXAMPLE.read_text(encoding="utf-8"))
    done = run_fedmq(
        *("demo", "--algorithm", "openai-es", "--seed", "1", "--out", "run"),
        cwd=tmp_path,
        timeout_s=60.0,
        PYTHONPATH=str(site),
    )
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "run")["solved"]


def test_broken_algorithm_is_refused_with_its_check_and_leaves_no_folder(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(EXAMPLE.read_text(encoding="utf-8").replace("if total is None:", "if False:"), encoding="utf-8")
    done = run_fedmq("aggregator", "--task", "xor", "--algorithm", "broken.py:OpenAIES", "--out", "run", cwd=tmp_path)
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert "participation" in line
    assert not (tmp_path / "run").exists()


def test_model_too_large_for_a_round_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(
        "from fedmq import MLP, Task\n"
        'task = Task(name="wide", model=MLP((1000, 43, 2)), loss="cross-entropy", metric="accuracy", target=1.0)\n'
    )
    done = run_fedmq("aggregator", "--task", "wide.py", "--out", "run", cwd=tmp_path)
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert "43131" in line
    assert not (tmp_path / "run").exists()


def test_trainer_takes_no_part_in_a_run_whose_query_it_does_not_know(tmp_path: Path) -> None:
    source = EXAMPLE.read_text(encoding="utf-8").replace("Plan(Evaluate()", "Plan(Mine()")
    site = install(
        tmp_path,
        f"{source}\n\nfrom fedmq.algorithms.evaluation.learner import score_candidates\n"
        "from fedmq.algorithms.base import Learner\n\n"
        'class Mine(Evaluate, frozen=True, tag="mine"):\n    pass\n\nLEARNER = Learner(Mine, score_candidates)\n',
    )
    with Services(tmp_path) as services:
        services.start_broker()
        services.start(
            *(
                "aggregator",
                "aggregator",
                "--task",
                "xor",
                "--algorithm",
                "openai-es",
                "--min-trainers",
                "1",
                "--out",
                "run",
            ),
            PYTHONPATH=str(site),
        )
        services.start_trainer("bob", "xor:1/2", *TRAINER)
        until(lambda: "takes no part" in services.err("bob"), "bob to decline")
        until(lambda: any(one["event"] == "trainer-left" for one in events_of(tmp_path / "run")), "bob to leave")
        for part, name in enumerate(("alice", "carol"), start=1):
            arguments = ("trainer", "--name", name, "--data", f"xor:{part}/2", *TRAINER)
            services.start(name, *arguments, PYTHONPATH=str(site))
        until(lambda: (tmp_path / "run" / "report.json").exists(), "the run to end")
        assert services.running["bob"].poll() is None
    answered = {one["name"] for one in report_of(tmp_path / "run")["trainers"] if one["results"]}
    assert answered
    assert "bob" not in answered
