import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack.janitor import Scratch, scratch_folder
from devstack.server import Server

_SERVER = "import signal, time; print(signal.getsignal(signal.SIGINT), flush=True); time.sleep(60)"
# An owner whose forked child lives on, with a copy of every pipe.
_OWNER = f"""
import os, pathlib, sys, time
from devstack.janitor import scratch_folder
from devstack.server import Server
home = pathlib.Path(sys.argv[1])
with scratch_folder(home) as scratch:
    server = Server("X", [sys.executable, "-c", {_SERVER!r}], home / "log", scratch)
    server.wait_ready(lambda: (home / "log").read_text())
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(child, server._guard.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    with scratch_folder(tmp_path) as scratch:
        yield scratch


def start(scratch: Scratch, log: Path) -> tuple[Server, psutil.Process, psutil.Process]:
    """A server, its guard and its process."""
    server = Server("X", [sys.executable, "-c", _SERVER], log, scratch)
    server.wait_ready(lambda: bool(log.read_text()))
    guard = psutil.Process(server._guard.pid)
    (process,) = guard.children()
    return server, guard, process


def test_a_killed_guard_leaves_no_server(scratch: Scratch, tmp_path: Path) -> None:
    """Somebody kills the guard: the server lives on at first, and a stop still ends it."""
    server, _, process = start(scratch, tmp_path / "log")
    server._guard.kill()
    server._guard.wait()
    assert process.is_running()

    server.stop()

    assert not psutil.wait_procs([process], timeout=10)[1]


def test_only_the_pipe_decides(scratch: Scratch, tmp_path: Path) -> None:
    """Signals that a terminal or a supervisor sends to the guard do not end it, nor the server."""
    server, guard, process = start(scratch, tmp_path / "log")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        guard.send_signal(number)

    assert not psutil.wait_procs([guard, process], timeout=0.3)[0]
    server.stop()
    assert not psutil.wait_procs([guard, process], timeout=10)[1]


def test_the_server_ignores_no_signal(scratch: Scratch, tmp_path: Path) -> None:
    """What the guard ignores its server does not inherit: it can end in order."""
    server, _, process = start(scratch, tmp_path / "log")
    server.stop()

    assert "default_int_handler" in (tmp_path / "log").read_text()
    assert not process.is_running()


def test_a_forked_child_does_not_keep_the_server_alive(tmp_path: Path) -> None:
    """A child that outlives its owner holds the pipe open; the guard sees that the owner has gone all the same."""
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child, guard = (psutil.Process(int(word)) for word in owner.stdout.readline().split())
    try:
        processes = [guard, *guard.children()]
        owner.kill()
        owner.wait()

        assert not psutil.wait_procs(processes, timeout=10)[1]
        assert child.is_running()
    finally:
        os.kill(child.pid, signal.SIGKILL)
        owner.kill()
        owner.communicate()
