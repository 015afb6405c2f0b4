"""Apache Kafka and Apicurio for real: what an end before or while they start leaves behind, and who can reach them."""

import contextlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from devstack import Stack, StackError, start_stack
from devstack.java import FOLDERS_VARIABLE, find_java
from tests.devstack.scripts import java

pytestmark = pytest.mark.integration


def until(holds: Callable[[], object], limit_s: float = 90) -> bool:
    """Polls another process's doing."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if holds():  # once: a moment later it may no longer be so
            return True
        time.sleep(0.05)
    return False


def javas(parent: int | None = None) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end while it is looked at
            if process.name() == "java":
                found.append(process)
    return found


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: Stack) -> Path:
    """The folder that stands for /tmp; asks for ``stack`` so that a missing Java skips, or fails in CI."""
    assert stack.broker == "apache"
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_while_starting_leaves_nothing(temporary: Path, number: signal.Signals) -> None:
    """A parent that is ended before anything answers leaves no process and no file."""
    process = subprocess.Popen([sys.executable, "-m", "devstack", "run"])
    try:
        # The registry starts, and the storage is being formatted or the broker starts.
        assert until(lambda: len(javas(process.pid)) == 2 or process.poll() is not None)
        assert process.poll() is None, "it ended by itself: its reason stands above"
        children = psutil.Process(process.pid).children(recursive=True)

        process.send_signal(number)

        process.wait(30)
    finally:
        process.kill()  # nothing, where it has ended
        process.wait()
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert until(lambda: not list(temporary.iterdir()))


def test_a_registry_that_dies_takes_the_broker_along(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last words are the error; no process stays; in a given folder the logs do, and the caller's own files."""
    old = java(tmp_path / "old", "17.0.1", f'exec {shlex.quote(str(find_java(17).executable))} "$@"')
    java(tmp_path / "new" / "one", "25", "echo the registry is broken; exit 1")
    monkeypatch.setenv("JAVA_HOME", str(old))  # good enough for the broker
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / "new" / "*"))
    given = tmp_path / "given"
    (given / "data").mkdir(parents=True)
    (given / "data" / "mine").write_text("mine")
    before = psutil.Process().children(recursive=True)
    stack = start_stack(broker="apache", registry="apicurio", folder=given)

    with pytest.raises(StackError, match="Apicurio Registry ended while starting:\nthe registry is broken"):
        stack.__enter__()

    assert set(psutil.Process().children(recursive=True)) <= set(before)
    assert list(temporary.iterdir()) == []
    assert sorted(str(path.relative_to(given)) for path in given.rglob("*") if path.is_file()) == [
        "data/mine", "logs/kafka.log", "logs/registry.log",
    ]  # fmt: skip
    assert "Kafka Server started" in (given / "logs" / "kafka.log").read_text()


def test_servers_listen_on_this_machine_only(stack: Stack) -> None:
    """No server can be reached from outside, on whatever port."""
    listening = [
        connection.laddr
        for process in javas()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert len(listening) >= 4, stack
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
