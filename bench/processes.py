"""Commands of ours, and peers, as processes that do not outlive us (`devstack.guard`)."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import devstack
from schemas.errors import FleetcastError

_GUARD = Path(devstack.__file__).with_name("guard.py")
_STOP_SECONDS = 25
_LINES = 15
_LOOK_SECONDS = 0.005


class Running:
    """A process that was started."""

    def __init__(self, name: str, guard: "subprocess.Popen[bytes]", log: Path) -> None:
        """``guard`` runs it; ``log`` is where its output goes."""
        self.started = time.perf_counter()
        self._name, self._guard, self._log = name, guard, log

    @property
    def pid(self) -> int:
        """Of the command itself.

        Raises:
            FleetcastError: it has ended.
        """
        children = Path(f"/proc/{self._guard.pid}/task/{self._guard.pid}/children").read_text(encoding="ascii").split()
        if not children:
            raise self._ended()
        return int(children[0])

    def check(self) -> None:
        """See that it runs.

        Raises:
            FleetcastError: it ended; with the end of its log.
        """
        if self._guard.poll() is not None:
            raise self._ended()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end.

        Raises:
            FleetcastError: it failed, or takes too long; with the end of its log.
        """
        try:
            code = self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise FleetcastError(f"{self._name} did not end within {timeout_s:g} s{self._tail()}") from None
        if code:
            raise self._ended()

    def wait_at_most(self, seconds: float) -> None:
        """Wait for its end, or so long.

        Raises:
            FleetcastError: it failed; with the end of its log.
        """
        try:
            code = self._guard.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        if code:
            raise self._ended()

    def resident_bytes(self) -> int:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def wait_ready(self, port: int, timeout_s: float = 120) -> float:
        """Seconds from its start until its ``/readyz`` on ``port`` says yes.

        Raises:
            FleetcastError: it ended, or takes too long.
        """
        while not _ready(port):
            self.check()
            if time.perf_counter() - self.started > timeout_s:
                raise FleetcastError(f"{self._name} was not ready within {timeout_s:g} s{self._tail()}")
            time.sleep(_LOOK_SECONDS)
        return time.perf_counter() - self.started

    def _ended(self) -> FleetcastError:
        return FleetcastError(f"{self._name} ended with {self._guard.poll()}{self._tail()}")

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:]
        return "".join(f"\n  {line}" for line in lines)


@contextmanager
def running(command: list[str], log: Path, module: str = "fleetcast") -> Iterator[Running]:
    """Run ``python -m MODULE COMMAND...``; at the end ask it to stop, and insist after a while."""
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), sys.executable, "-m", module, *command],
            stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield Running(" ".join([module, *command[:1]]), guard, log)
    finally:
        if guard.stdin is not None:
            guard.stdin.close()  # the guard's sign to end it
        try:
            guard.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)
            guard.wait()


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
