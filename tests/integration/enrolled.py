"""A federation with keys as real processes, created and joined by the commands that a user types."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
from services import Services, run_fedmq, until, without_notices

from fedmq.security.keys import transport_public
from fedmq.security.tokens import decode_token, encode_token, read_issued_tokens, write_issued_token

ENDLESS = """
from fedmq import Linear, Task
task = Task(name="endless", model=Linear(2), loss="squared-error", metric="loss", target=0.0, rounds=1000000)
def rows(part, parts):
    return [[1.0, 1.0], [1.0, 1.0]], [0.0, 1.0]  # no model fits them
"""


class Federation(Services):
    """Services of a federation with its keys in `folder/keys`, and each trainer's keys in a folder of its name."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        super().__init__(folder)
        self.address = f"tcp://{host}:{self.port}"

    def fedmq(self, *arguments: str, **more: str) -> CompletedProcess[str]:
        """Run `fedmq ARGUMENTS` to its end."""
        return run_fedmq(*arguments, cwd=self.folder, **more)

    def make(self) -> None:
        """Create the keys, and start the broker."""
        done = self.fedmq("keys", "init", "--broker", self.address)
        assert done.returncode == 0, done.stderr
        self.start_broker()

    def start_broker(self) -> None:
        """Start the broker and wait until it listens."""
        before = self.out("broker").count("broker on")
        self.start("broker", "broker", "--keys", "keys", "--log-level", "debug")
        listens = f"{self.folder}: the broker to listen"
        until(lambda: self.running["broker"].poll() or self.out("broker").count("broker on") > before, listens)
        assert self.running["broker"].poll() is None, self.err("broker")

    def token(self, *arguments: str) -> str:
        done = self.fedmq("keys", "token", *arguments)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        return line

    def start_join(self, name: str, token: str) -> None:
        """Start to join, and wait until there is a request to accept."""
        before = self.out(f"join-{name}").count("waiting until")
        arguments = ["--name", name, "--keys", name, "--log-level", "debug"]
        self.start(f"join-{name}", "trainer", "join", *arguments, FEDMQ_TOKEN=token)
        until(lambda: self.out(f"join-{name}").count("waiting until") > before, f"{name} to wait")

    def join(self, name: str) -> None:
        """Join a trainer, and accept it."""
        self.start_join(name, self.token())
        assert self.fedmq("keys", "accept", name, self.fingerprint(name)).returncode == 0
        assert self.wait(f"join-{name}") == 0, self.err(f"join-{name}")

    def fingerprint(self, name: str) -> str:
        """The fingerprint that `fedmq trainer join` printed last."""
        return re.findall(rf"^trainer {name}, fingerprint (\S+)$", self.out(f"join-{name}"), re.MULTILINE)[-1]

    def membership(self) -> dict[str, list[dict[str, Any]]]:
        known: dict[str, list[dict[str, Any]]] = json.loads(self.fedmq("keys", "ls", "--json").stdout)
        return known

    def names(self, kind: str) -> list[str]:
        return [one["name"] for one in self.membership()[kind]]

    def expire(self, token: str) -> str:
        """Let a token expire, in the folder and in its line; return the new line."""
        key, late = transport_public(decode_token(token).secret), int(time.time()) - 1
        ticket = read_issued_tokens(self.folder / "keys")[key]
        write_issued_token(self.folder / "keys", key, msgspec.structs.replace(ticket, expires=late))
        return encode_token(msgspec.structs.replace(decode_token(token), expires=late))

    def start_endless(self, *names: str) -> Path:
        """Start a run without an end; return its folder."""
        (self.folder / "endless.py").write_text(ENDLESS)
        arguments = ["--keys", "keys", "--out", "run", "--task", "endless.py", "--min-trainers", str(len(names))]
        self.start("aggregator", "aggregator", *arguments)
        for name in names:
            self.start(name, "trainer", "--keys", name, "--data", "endless.py:1/1", "--log-level", "debug")
        return self.folder / "run"


def one_line(done: CompletedProcess[str]) -> str:
    """Return the only line of a command on stderr."""
    line = without_notices(done.stderr)
    assert line.count("\n") == 1, done.stderr
    assert "Traceback" not in line
    return line
