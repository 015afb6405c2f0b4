"""One Java server as a process that cannot outlive us."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from devstack.errors import StackError

_READY_S = 90
_STOP_S = 20


class Server:
    """A server behind the guard; started at once, stopped by ``stop`` or by our end."""

    def __init__(self, name: str, command: list[str], log: Path, folder: Path) -> None:
        """Start ``command`` with its output in ``log``; ``folder`` is removed when the guard finds us gone."""
        self.name, self.log = name, log
        guard = [sys.executable, "-I", str(Path(__file__).with_name("guard.py"))]
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [*guard, str(folder), *command],
                stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=folder,
                start_new_session=True,  # Ctrl-C in a terminal must not reach the broker before its clients
            )  # fmt: skip

    def wait_ready(self, answers: Callable[[], bool]) -> None:
        """Wait until the server answers.

        Raises:
            StackError: it died, or took too long; with the end of its log.
        """
        deadline = time.monotonic() + _READY_S
        while not answers():
            if self._guard.poll() is not None:
                raise StackError(f"{self.name} ended while starting:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} did not answer within {_READY_S} s:\n{self._tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask it to end and wait; insist after a while."""
        if self._guard.poll() is not None:
            return
        if self._guard.stdin is not None:
            with contextlib.suppress(OSError):  # it may end by itself just now
                self._guard.stdin.write(b"q")
                self._guard.stdin.close()
        try:
            self._guard.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the server, as an accident would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        if self._guard.stdin is not None:
            self._guard.stdin.close()

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
