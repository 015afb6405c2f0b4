import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack.errors import StackError
from devstack.janitor import Scratch, scratch_folder
from devstack.server import PortTakenError, Server, free_ports


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    with scratch_folder(tmp_path) as scratch:
        yield scratch


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def never() -> bool:
    return False


def test_ports_are_different_and_free() -> None:
    """The ports differ, can be listened on, and are none that a system gives to outgoing connections."""
    ports = free_ports(20)

    assert len(set(ports)) == 20
    assert all(20_000 <= port < 32_000 for port in ports)
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_server_that_dies_is_an_error_with_its_last_words(scratch: Scratch, tmp_path: Path) -> None:
    """Who waits for a server that has ended gets the end of its log."""
    server = Server("X", python("print('disk is full'); raise SystemExit(3)"), tmp_path / "x.log", scratch)

    with pytest.raises(StackError, match=r"X ended while starting:\ndisk is full"):
        server.wait_ready(never)
    server.stop()


def test_a_taken_port_is_told_apart(scratch: Scratch, tmp_path: Path) -> None:
    """A server that ended while another listens on its port can be tried again elsewhere, so the error says that."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = Server("X", python("raise SystemExit(1)"), tmp_path / "x.log", scratch, [port])

        with pytest.raises(PortTakenError, match=str(port)):
            server.wait_ready(never)
    server.stop()


def test_a_command_that_fails_is_an_error(scratch: Scratch, tmp_path: Path) -> None:
    """A command that ends by itself must end well."""
    Server("X", python("pass"), tmp_path / "x.log", scratch).wait_done()

    with pytest.raises(StackError, match=r"X ended with exit code 7:\nno"):
        Server("X", python("print('no'); raise SystemExit(7)"), tmp_path / "x.log", scratch).wait_done()


def test_stop_asks_and_kill_does_not(scratch: Scratch, tmp_path: Path) -> None:
    """A stopped server may end in order, a killed one may not; of neither a process is left."""
    tidy = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('tidied')))"
    code = f"{tidy}; print('up', flush=True); time.sleep(60)"
    for end, said in (("stop", "up\ntidied\n"), ("kill", "up\n")):
        log = tmp_path / f"{end}.log"
        server = Server("X", python(code), log, scratch)
        server.wait_ready(lambda log=log: "up" in log.read_text())  # type: ignore[misc]
        processes = [p for p in psutil.Process().children(recursive=True) if code in p.cmdline()]

        getattr(server, end)()

        assert len(processes) == 2
        assert not psutil.wait_procs(processes, timeout=5)[1]
        assert log.read_text() == said


def test_the_folder_goes_after_its_last_user(tmp_path: Path) -> None:
    """The scratch folder is gone after the block, whatever is in it, and its parent is not."""
    with scratch_folder(tmp_path) as scratch:
        (scratch.folder / "deep" / "er").mkdir(parents=True)
        (scratch.folder / "deep" / "-rf file").write_text("x")
        assert scratch.folder.parent == tmp_path

    assert list(tmp_path.iterdir()) == []
