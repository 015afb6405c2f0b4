"""Commands of ours as processes that do not outlive us, however we end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import devstack
from devstack.janitor import Scratch
from schemas.errors import FleetcastError

# Runs the command until it ends, or until the pipe that only we hold closes, as it does when we are killed.
_GUARD = Path(devstack.__file__).with_name("guard.py")
_STOP_SECONDS = 20  # more than the guard's own grace
_LINES = 15


class Child:
    """A command of ours in a process of its own."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", log: Path, *, may_end: bool) -> None:
        """``log`` is where its stderr goes. ``may_end``: it has an end of its own."""
        self.name, self.log = name, log
        self._process, self._may_end = process, may_end

    def check(self) -> None:
        """See that it runs, or was right to end.

        Raises:
            FleetcastError: it was not; with the end of its log.
        """
        code = self._process.poll()
        if code is None or (code == 0 and self._may_end):
            return
        end = "\n  ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES:])
        raise FleetcastError(f"{self.name} ended with {code}:\n  {end}")


@contextmanager
def child(
    arguments: list[str],
    environment: dict[str, str],
    scratch: Scratch,
    *,
    output: Callable[[str], None] | None = None,
    may_end: bool = False,
) -> Iterator[Child]:
    """Run ``fleetcast`` with ``arguments``; at the end ask it to stop, and insist after a while.

    Args:
        arguments: the command first.
        environment: of the process.
        scratch: where its log goes; it stays until the process has gone.
        output: takes each line of its stdout, in a thread of its own.
        may_end: exit code 0 is no failure.
    """
    log = scratch.folder / f"{arguments[0]}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), sys.executable, "-m", "fleetcast", *arguments],
            env=environment, stdin=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8",
            stdout=subprocess.PIPE if output else errors, pass_fds=(scratch.pipe,),
            start_new_session=True,  # Ctrl-C is ours to hand on, in order
        )  # fmt: skip
    reader = threading.Thread(target=_copy, args=(process, output), daemon=True)
    reader.start()
    try:
        yield Child(arguments[0], process, log, may_end=may_end)
    finally:
        _stop(process)
        reader.join(5)


def _stop(process: "subprocess.Popen[str]") -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        code = process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        code = -signal.SIGKILL
    if code < 0:  # the guard hangs or was killed, and may have left the command running
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _copy(process: "subprocess.Popen[str]", output: Callable[[str], None] | None) -> None:
    if process.stdout is not None and output is not None:
        for line in process.stdout:
            output(line)
