"""Tasks with code across real processes: the demo, a trainer that declines, and a run that continues."""

from __future__ import annotations

from pathlib import Path

from enrolled import Federation
from services import Services, closed, events_of, report_of, run_fedmq, until

from fedmq.security.keyring import read_federation

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "own_score.py")
ENDLESS = Path(EXAMPLE).read_text().replace("target=0.99", "target=1.0").replace("rounds=100", "rounds=100000")


def test_demo_runs_the_code_of_a_file(tmp_path: Path) -> None:
    done = run_fedmq("demo", "--task", EXAMPLE, "--seed", "1", "--out", "run", cwd=tmp_path, timeout_s=50.0)
    assert done.returncode == 0, done.stderr
    assert "parameters: " in done.stdout
    assert report_of(tmp_path / "run")["solved"]


def test_trainer_without_code_permission_serves_other_runs(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        services.start_broker()
        services.start_trainer("bob", "linear:bob", "--allow-code")
        services.start("code", "aggregator", "--task", EXAMPLE, "--min-trainers", "1", "--out", "code")
        until(lambda: "takes no part" in services.err("bob"), "bob to refuse")
        until(lambda: any(one["event"] == "trainer-left" for one in events_of(tmp_path / "code")), "him to leave")
        services.start(
            "data", "aggregator", "--task", "linear", "--min-trainers", "1", "--rounds", "3", "--out", "data"
        )
        services.wait("data")
        assert report_of(tmp_path / "data")["rounds"] <= 3
        assert services.running["bob"].poll() is None
        (line,) = [line for line in services.err("bob").splitlines() if "scored by code" in line]
        assert "expected the signature of a pinned aggregator key, got none" in line
        assert closed(tmp_path / "code") == 0


def test_run_continues_with_its_first_code(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(ENDLESS)
    with Services(tmp_path) as services:
        services.start_broker()
        services.start_trainer("bob", "own.py:1/1", "--score", "own.py")
        start = ("aggregator", "--task", "own.py", "--min-trainers", "2", "--out", "run")
        services.start("aggregator", *start)
        until(lambda: any(one["event"] == "trainer-joined" for one in events_of(tmp_path / "run")), "bob to join")
        services.kill("aggregator")
        own.write_text(own.read_text().replace("1.0 + np.minimum", "2.0 + np.minimum"))
        services.start("aggregator", *start[:3], "--min-trainers", "1", "--rounds", "2", *start[-2:])
        services.wait("aggregator")
        assert "the run keeps the score() that it began with" in services.err("aggregator")
        assert report_of(tmp_path / "run")["trainers"][0]["results"] >= 1


def test_local_copy_without_code_is_an_error(tmp_path: Path) -> None:
    done = run_fedmq("trainer", "--name", "bob", "--data", "xor:1/2", "--min-rows", "1", "--score", "xor", cwd=tmp_path)
    assert done.returncode == 78
    assert done.stderr.startswith("fedmq: --score xor: expected a task with code")
    assert len(done.stderr.splitlines()) == 1


def test_code_with_gradients_is_an_error(tmp_path: Path) -> None:
    done = run_fedmq("aggregator", "--task", EXAMPLE, "--algorithm", "averaging", "--out", "run", cwd=tmp_path)
    assert done.returncode == 78
    assert "learner=gradient" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_signed_code_runs_only_with_allow_code(tmp_path: Path) -> None:
    with Federation(tmp_path) as federation:
        federation.make()
        for name in ("alice", "bob"):
            federation.join(name)
        (tmp_path / "endless.py").write_text(ENDLESS)
        start = ("trainer", "--data", f"{EXAMPLE}:1/1", "--keys")
        federation.start("alice", *start, "alice", "--allow-code")
        federation.start("bob", *start, "bob")
        run = ("--task", "endless.py", "--min-trainers", "1", "--seed", "1", "--out", "run")
        federation.start("aggregator", "aggregator", "--keys", "keys", *run)
        until(lambda: closed(tmp_path / "run") > 1, "rounds with alice")
        until(lambda: "takes no part" in federation.err("bob"), "bob to refuse")
        accepted = [one["trainer"] for one in events_of(tmp_path / "run") if one["event"] == "result-accepted"]
        assert set(accepted) == {"alice"}
        (line,) = [line for line in federation.err("bob").splitlines() if "scored by code" in line]
        pinned = read_federation(tmp_path / "bob").aggregator.fingerprint
        assert f"signed by the pinned key {pinned}: expected --allow-code, got none" in line
