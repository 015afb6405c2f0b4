"""One Java server as a process that cannot outlive us, and the ports it listens on."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from devstack.errors import StackError
from devstack.janitor import Scratch

_READY_S = 90  # 5 s on an idle machine, 20 s were seen on a busy one
_STOP_S = 20  # more than the guard's own grace
_TAIL_LINES = 40
# Below the ports that systems hand out to outgoing connections (from 32768 on Linux, 49152 on macOS): while a server is
# down for a restart, no client of it can come to hold its port.
_PORTS = range(20_000, 32_000)


class PortTakenError(StackError):
    """Somebody else was quicker to listen there."""


class Server:
    """A command behind the guard; started at once, ended by ``stop``, ``kill`` or by our own end."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, scratch: Scratch, ports: Sequence[int] = ()
    ) -> None:
        """Start ``command`` in the scratch folder with its output in ``log``. ``ports``: those it will listen on."""
        self.name, self.log, self._ports = name, log, ports
        guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=scratch.folder, pass_fds=(scratch.pipe,),
                start_new_session=True,  # Ctrl-C in a terminal must not reach the broker before its clients
            )  # fmt: skip

    def wait_ready(self, answers: Callable[[], bool]) -> None:
        """Wait until the server answers.

        Raises:
            PortTakenError: it died because one of its ports is taken.
            StackError: it died, or took too long; with the end of its log.
        """
        deadline = time.monotonic() + _READY_S
        while True:
            # A stranger on our port must not answer for it: a server that died is asked no more.
            if self._guard.poll() is not None:
                raise self._died("while starting")
            if answers() and self._guard.poll() is None:
                return
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer within {_READY_S} s:\n{self._tail()}")
            time.sleep(0.1)

    def wait_done(self) -> None:
        """Wait for a command that ends by itself.

        Raises:
            StackError: it failed, or took too long; with the end of its log.
        """
        try:
            code = self._guard.wait(_READY_S)
        except subprocess.TimeoutExpired:
            raise StackError(f"{self.name} did not end within {_READY_S} s:\n{self._tail()}") from None
        finally:
            self.stop()
        if code:
            raise self._died(f"with exit code {code}")

    def ask_to_end(self) -> None:
        """SIGTERM to the server, through its guard; returns at once."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    def stop(self) -> None:
        """Ask it to end and wait; insist after a while."""
        self.ask_to_end()
        try:
            code = self._guard.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            if code < 0:  # the guard itself was killed, by us or by somebody who left the server running
                self._kill_group()

    def kill(self) -> None:
        """SIGKILL to the server, as an accident would."""
        if self._guard.poll() is None:
            self._kill_group()
        self._guard.wait()
        self.ask_to_end()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it may end by itself just now
            os.killpg(self._guard.pid, signal.SIGKILL)

    def _died(self, how: str) -> StackError:
        if any(not _is_free(port) for port in self._ports):
            return PortTakenError(f"{self.name} ended {how}: one of its ports {list(self._ports)} is taken")
        return StackError(f"{self.name} ended {how}:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listens on now.

    Raises:
        StackError: there are not so many.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise StackError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop - 1}")


def listens(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed connection is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
