"""Members of a group as real processes, and what their logs say of them."""

import contextlib
import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

import devstack
from tests.chaos.scene import Group, Scene

# Ends the member when we end, however we do; its group takes our signals, since it ignores all that can be ignored.
_GUARD = Path(devstack.__file__).with_name("guard.py")
_ROOT = Path(__file__).parents[2]
_TAIL_LINES = 60
_LEAVE_SECONDS = 60
State = Literal["starting", "restoring", "in transaction", "committing", "running"]
# What lines of the log mean for transactions; a member that writes none of them is never seen inside one.
_TRANSACTION: dict[str, State] = {
    "transaction begins": "in transaction",
    "committing": "committing",
    "transaction ended": "running",
}
_NAMES = re.compile(r"\[[^]]*\]:? ?|\S*127\.0\.0\.1\S* ?")  # of threads and brokers, in librdkafka's lines
_COMMIT_SECONDS = 0.02  # no line may say when it is over


class MemberFailedError(Exception):
    """A member ended by itself, or would not end."""


@dataclass(slots=True)
class Member:
    """One life of a member.

    Attributes:
        instance: its instance id; the next life may have the same.
        log: its stderr, JSON lines.
        started: when, on the monotonic clock.
    """

    instance: str
    log: Path
    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)
    _read: int = 0
    _was_assigned: bool = False
    _restoring: set[int] = field(default_factory=set)
    _state: State = "running"
    _state_since: float = 0.0

    @classmethod
    def start(cls, scene: Scene, group: Group, instance: str, *options: str) -> "Member":
        """Start a process; its log has a name of its own."""
        folder = scene.folder / "logs"
        folder.mkdir(exist_ok=True)
        life = len(list(folder.glob(f"{instance}.*.log"))) + 1
        log = folder / f"{instance}.{life:02d}.log"
        arguments = [sys.executable, "-m", "fleetcast", *scene.command(group, instance), *options]
        environment = {**os.environ, "FLEETCAST_ENGINE": "llvm", "PYTHONFAULTHANDLER": "1"}  # as users run it
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), *arguments],
                stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=_ROOT, env=environment,
                start_new_session=True,
            )  # fmt: skip
        return cls(instance, log, process)

    def state(self) -> State:
        """What it is doing, as its log says."""
        self._follow()
        if not self._was_assigned:
            return "starting"
        if self._restoring:
            return "restoring"
        over = self._state == "committing" and time.time() - self._state_since > _COMMIT_SECONDS
        return "running" if over else self._state

    def has_partitions(self) -> bool:
        """Whether the group has ever given it any."""
        self._follow()
        return self._was_assigned

    def check(self) -> None:
        """See that it runs.

        Raises:
            MemberFailedError: it ended, and nobody had asked it to; with the end of its log.
        """
        code = self.process.poll()
        if code is not None:
            raise MemberFailedError(f"{self.instance} ended by itself with {code}:\n{self.tail()}")

    def kill(self) -> None:
        """SIGKILL."""
        self.check()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close()

    def ask_to_end(self) -> None:
        """SIGTERM."""
        self.check()
        os.killpg(self.process.pid, signal.SIGTERM)

    def wait(self, seconds: float = _LEAVE_SECONDS) -> None:
        """Wait for an orderly end.

        Raises:
            MemberFailedError: it does not end in time, or not with 0.
        """
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            where = self.where()
            self.discard()
            raise MemberFailedError(f"{self.instance} did not end within {seconds:g} s:\n{where}") from None
        finally:
            self._close()
        if code:
            raise MemberFailedError(f"{self.instance} ended with {code}:\n{self.tail()}")

    def suspend(self) -> None:
        """SIGSTOP to the member alone: its guard must be able to end it."""
        self._itself().suspend()

    def resume(self) -> None:
        """SIGCONT."""
        self._itself().resume()

    def discard(self) -> None:
        """End it at once where it still runs: the run is over, or has failed."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._close()

    def where(self) -> str:
        """End a member that hangs so that Python tells, in its log, where each thread was; the end of its log."""
        if self.process.poll() is None:
            self._itself().send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        return f"{self.log.name}:\n{self.tail()}"

    def tail(self) -> str:
        """The end of its log, without what librdkafka says twenty times a second while a broker is away."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if "Connection refused" not in line][-_TAIL_LINES:])

    def _itself(self) -> psutil.Process:
        self.check()
        found = psutil.Process(self.process.pid).children()
        if not found:
            raise MemberFailedError(f"{self.instance} has just ended:\n{self.tail()}")
        return found[0]

    def _close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _follow(self) -> None:
        """Read on in the log."""
        with self.log.open("rb") as lines:
            lines.seek(self._read)
            for raw in lines:
                if not raw.endswith(b"\n"):
                    break
                self._read += len(raw)
                self._note(_parse(raw))

    def _note(self, line: dict[str, Any]) -> None:
        """What a line means for the state."""
        match line:
            case {"event": "partitions assigned", "partitions": [*numbers]}:
                self._restoring.update(numbers)
                self._was_assigned = self._was_assigned or bool(numbers)
            case {"event": "partition restored", "partition": int(number)}:
                self._restoring.discard(number)
            case {"event": "partitions given away" | "partitions lost", "partitions": [*numbers]}:
                self._restoring.difference_update(numbers)
            case {"event": str(event), "timestamp": str(written)} if event in _TRANSACTION:
                self._state, self._state_since = _TRANSACTION[event], dt.datetime.fromisoformat(written).timestamp()


def complaints(folder: Path) -> Counter[str]:
    """Warnings and errors in all members' logs, by what they say."""
    found: Counter[str] = Counter()
    for log in sorted((folder / "logs").glob("*.log")):
        with log.open("rb") as lines:
            for raw in lines:
                line = _parse(raw)
                if line.get("level") in ("warning", "error", "critical"):
                    found[f"{line['level']}: {_NAMES.sub('', str(line.get('event')))[:120]}"] += 1
    return found


def _parse(raw: bytes) -> dict[str, Any]:
    """A line of the log; what is no JSON (a traceback) says nothing here, it is shown when a member fails."""
    try:
        line = json.loads(raw)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}
