"""However a stack ends, no process of it runs on and no file of it stays."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from devstack import Stack

_END_S = 30
_PROGRAM = """
import time
from devstack import start_stack
with start_stack(broker="embedded", registry="embedded"):
    print("up", flush=True)
    time.sleep(99)
"""
_RUN = ["-m", "devstack", "run"]
_EMBEDDED = ["--broker", "embedded", "--registry", "embedded"]


@contextmanager
def running(command: list[str], temporary: Path) -> Iterator[tuple[psutil.Popen, list[psutil.Process]]]:
    """A stack in a process of its own, once it is up, and the processes that it has started."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = psutil.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout.readline(), "it did not start"
        yield process, process.children(recursive=True)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def assert_nothing_left(command: list[str], number: int, code: int, temporary: Path) -> int:
    """Send the signal to a stack that is up; how many processes it had started."""
    with running(command, temporary) as (process, children):
        folders = list(temporary.iterdir())
        process.send_signal(number)
        assert process.wait(_END_S) == code

    assert len(folders) == 1
    assert not psutil.wait_procs(children, timeout=_END_S)[1]
    assert list(temporary.iterdir()) == []
    return len(children)


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ([*_RUN, *_EMBEDDED], signal.SIGINT, 0),
        ([*_RUN, *_EMBEDDED], signal.SIGTERM, 0),
        (["-c", _PROGRAM], signal.SIGTERM, 128 + signal.SIGTERM),
        (["-c", _PROGRAM], signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=["run-SIGINT", "run-SIGTERM", "program-SIGTERM", "program-SIGKILL"],
)
def test_the_embedded_pair_leaves_nothing(command: list[str], number: int, code: int, tmp_path: Path) -> None:
    """``run`` ends well; a program without a handler unwinds at SIGTERM; after SIGKILL the folder goes all the same."""
    assert_nothing_left(command, number, code, tmp_path)


@pytest.mark.integration
@pytest.mark.usefixtures("stack")  # skips, or fails in CI, where there is no Java
@pytest.mark.parametrize(
    ("number", "code", "registry", "processes"),
    [
        (signal.SIGINT, 0, "embedded", 3),
        (signal.SIGTERM, 0, "embedded", 3),
        (signal.SIGKILL, -signal.SIGKILL, "apicurio", 5),
        (signal.SIGHUP, -signal.SIGHUP, "embedded", 3),
    ],
    ids=["SIGINT", "SIGTERM", "SIGKILL", "SIGHUP"],
)
def test_real_servers_leave_nothing(number: int, code: int, registry: str, processes: int, tmp_path: Path) -> None:
    """Whatever signal ends the parent, the servers, their guards and the janitor end, and the folder goes."""
    command = [*_RUN, "--broker", "apache", "--registry", registry]

    assert assert_nothing_left(command, number, code, tmp_path) == processes


@pytest.mark.integration
def test_ctrl_c_in_a_terminal_does_not_reach_the_servers(stack: Stack) -> None:
    """Guards and servers are in sessions of their own: clients still have a broker to drain into."""
    guards = [child for child in psutil.Process().children() if "guard.py" in " ".join(child.cmdline())]

    assert stack.broker == "apache"
    assert len(guards) == 3, "of the broker, its controller and the registry"
    for guard in guards:
        assert [server.name() for server in guard.children()] == ["java"]
        assert {os.getsid(process.pid) for process in (guard, *guard.children())} == {guard.pid}
