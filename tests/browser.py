"""What the tests of the playground share: their marks, and a server that is there while they run."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import CHROMIUM, ROOT

MARKS = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; apt-get install chromium brings it"),
]
MINUTE = 60_000  # milliseconds, playwright's unit


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def recipe(target: str, options: str) -> tuple[list[str], dict[str, str]]:
    """What `make` starts for the target, with the Python of this test, and its environment."""
    told = ["make", "--no-print-directory", "-n", target, options]
    lines = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=True).stdout.replace("\\\n", "")
    variables, command = shlex.split(lines.splitlines()[-1]), list[str]()
    while variables[-1] != ".venv/bin/python":
        command.insert(0, variables.pop())
    return [sys.executable, *command], dict(variable.split("=") for variable in variables[:-1])


@contextmanager
def served(command: list[str], answers: Callable[[], object], *, log: Path, cwd: Path, **more: str) -> Iterator[None]:
    """While the server of ``command`` runs, from when ``answers`` raises no OSError any more.

    It writes to ``log``, and its environment is that of a user, and ``more``.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("TQDM_DISABLE", "MPLBACKEND")}
    with open(log, "w") as said:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment | more, stdout=said, stderr=said, start_new_session=True
        )
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                answers()
                break
            except OSError:
                time.sleep(0.25)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
