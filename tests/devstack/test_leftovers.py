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
# Kafka's shutdown and the registry's are told apart by the pairs: each real server ends by each signal.
PAIRS = [
    ("embedded", "embedded"),
    pytest.param("apache", "apicurio", marks=pytest.mark.integration),
]
UNWINDING = "from devstack import start_stack\nimport time\nwith start_stack(broker={!r}, registry={!r}): print('up', flush=True); time.sleep(99)"


@contextmanager
def running(command: list[str], temporary: Path) -> Iterator[tuple[psutil.Popen, list[psutil.Process]]]:
    """A stack in a process of its own, once it is up, and the processes that it has started."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = psutil.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout.readline(), "it did not start"
        yield process, process.children(recursive=True)
    finally:
        if process.is_running():
            process.kill()
        process.wait()
        process.stdout.close()


def assert_nothing_left(processes: list[psutil.Process], temporary: Path) -> None:
    """The guards and the janitor may take a moment after their owner's end."""
    _, alive = psutil.wait_procs(processes, timeout=_END_S)

    assert not alive
    assert list(temporary.iterdir()) == []


@pytest.fixture
def available(request: pytest.FixtureRequest, broker: str) -> None:
    """Where the real servers cannot be had, the fixture that starts them says what follows."""
    if broker == "apache":
        request.getfixturevalue("stack")


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize(("broker", "registry"), PAIRS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_asked_to_end(broker: str, registry: str, number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM end a stack in the foreground: it says where it was, exits with 0 and leaves nothing."""
    command = ["-m", "devstack", "run", "--broker", broker, "--registry", registry]
    with running(command, tmp_path) as (process, children):
        process.send_signal(number)
        assert process.wait(_END_S) == 0

    assert_nothing_left(children, tmp_path)


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize(("broker", "registry"), PAIRS)
def test_killed(broker: str, registry: str, tmp_path: Path) -> None:
    """SIGKILL to the owner, which can do nothing any more: its servers end all the same, and its folder goes."""
    with running(["-c", UNWINDING.format(broker, registry)], tmp_path) as (process, children):
        assert list(tmp_path.iterdir()) != []
        process.kill()

    assert_nothing_left(children, tmp_path)


def test_sigterm_unwinds(tmp_path: Path) -> None:
    """In a program that knows nothing of signals SIGTERM unwinds the stack, and the exit code still tells of it."""
    with running(["-c", UNWINDING.format("embedded", "embedded")], tmp_path) as (process, children):
        process.terminate()
        assert process.wait(_END_S) == 128 + signal.SIGTERM

    assert_nothing_left(children, tmp_path)


@pytest.mark.integration
def test_a_terminal_s_ctrl_c_does_not_reach_the_servers(stack: Stack) -> None:
    """The servers are in sessions of their own: Ctrl-C reaches the clients, which still need a broker to drain into."""
    guards = [child for child in psutil.Process().children() if "guard.py" in " ".join(child.cmdline())]

    assert stack.broker == "apache"
    assert len(guards) >= 2
    for guard in guards:
        assert os.getsid(guard.pid) == guard.pid
        assert all(os.getsid(server.pid) == guard.pid for server in guard.children())
