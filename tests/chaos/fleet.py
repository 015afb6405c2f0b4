"""The disturbed group's members, and what is done to them."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
import structlog

from tests.chaos.members import Member, MemberFailedError, State
from tests.chaos.scene import Scene
from tests.chaos.schedule import Disturbance

log = structlog.get_logger(__name__)
FEWEST, MOST = 2, 3
_READY_SECONDS = 60
_BROKER_AWAY_SECONDS = 6.0
_AIM_SECONDS = 10
_LOOK_SECONDS = 0.002
_INTO_TRANSACTION = 0.004  # one takes some 10 ms


@dataclass(frozen=True, slots=True)
class Happened:
    """A disturbance that was done: its kind for the report, and when it began on the monotonic clock."""

    kind: str
    at: float


class Fleet:
    """Two or three members; victims are chosen by the schedule, among the members in the order of their ids."""

    def __init__(self, scene: Scene) -> None:
        """Nobody runs yet."""
        self._scene = scene
        self._members: dict[str, Member] = {}
        self._next = 1
        self.happened: list[Happened] = []
        self.killed_while: Counter[State] = Counter()

    def start(self) -> None:
        """The first members, each with partitions."""
        for _ in range(FEWEST):
            self._join()
        self._wait_for_all()

    def disturb(self, disturbance: Disturbance) -> None:
        """Do it, and leave the pause that follows."""
        what: Callable[[Disturbance], None] = getattr(self, f"_{disturbance.cause}")
        what(disturbance)
        log.info("disturbed", kind=self.happened[-1].kind, members=sorted(self._members))
        self._rest(disturbance.pause)

    def wait(self, condition: Callable[[], bool], seconds: float, *, must: bool = True) -> None:
        """Until something is so, with an eye on the members; where it ``must`` not become so, time may pass as well."""
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                if must:
                    logs = "\n".join(member.where() for member in self._members.values())
                    raise MemberFailedError(f"somebody hangs: not within {seconds:g} s what should have been\n{logs}")
                return
            for member in self._members.values():
                member.check()
            time.sleep(min(left, 0.05))

    def stop(self) -> None:
        """SIGTERM to all; each must end in order."""
        self._wait_for_all()
        for member in self._members.values():
            member.ask_to_end()
        for member in self._members.values():
            member.wait()
        self._members.clear()

    def discard(self) -> None:
        """Whatever still runs: the run has failed."""
        for member in self._members.values():
            member.discard()

    def _kill(self, disturbance: Disturbance) -> None:
        victim = self._victim(disturbance)
        kind = "killed, same instance back" if disturbance.same else "killed, another takes over"
        if disturbance.aim in ("start", "restore"):
            kind = f"killed twice, again in its {disturbance.aim}"
            self._shoot(victim)
            victim = self._join(victim.instance)
        self._wait_for(disturbance, victim)
        self._note(kind)
        self._shoot(victim)
        self._join(victim.instance if disturbance.same else None)

    def _wait_for(self, disturbance: Disturbance, victim: Member) -> None:
        """Until the moment that a kill aims at."""
        match disturbance.aim:
            case "any":
                self._rest(disturbance.seconds)
            case "transaction":
                self._catch(victim, "in transaction", "committing")
                time.sleep(disturbance.seconds * _INTO_TRANSACTION)  # at its very begin nothing is written yet
            case "start":
                self._rest(0.2 + disturbance.seconds)
            case "restore":
                self.wait(victim.has_partitions, _READY_SECONDS)
                self._catch(victim, "restoring")

    def _catch(self, victim: Member, *wanted: State) -> None:
        """Until the victim's log says that it is where we want it, a moment ago; after a while any moment will do."""
        deadline = time.monotonic() + _AIM_SECONDS
        while victim.state() not in wanted and time.monotonic() < deadline:
            victim.check()
            time.sleep(_LOOK_SECONDS)

    def _shoot(self, victim: Member) -> None:
        self.killed_while[victim.state()] += 1
        victim.kill()
        del self._members[victim.instance]

    def _churn(self, disturbance: Disturbance) -> None:
        if len(self._members) < MOST:
            self._note("joined")
            member = self._join()
            self.wait(member.has_partitions, _READY_SECONDS)
            return
        victim = self._victim(disturbance)
        self._note("left (SIGTERM)")
        victim.ask_to_end()
        victim.wait()
        del self._members[victim.instance]

    def _broker(self, disturbance: Disturbance) -> None:
        self._note("broker killed")
        self._scene.stack.kill_broker()
        # Past its session at the controller (3 s here): where leadership moves twice while the group coordinator loads,
        # Kafka 4.3.1 can find its "state machine out of sync with the underlying log" and serve the group no more.
        self._rest(max(disturbance.seconds, _BROKER_AWAY_SECONDS))
        self._scene.stack.restart_broker()

    def _registry(self, disturbance: Disturbance) -> None:
        self._note("registry down")
        self._scene.stack.stop_registry()
        self._rest(disturbance.seconds)
        self._scene.stack.start_registry()

    def _stop(self, disturbance: Disturbance) -> None:
        victim = self._victim(disturbance)
        self._note("stopped (SIGSTOP), then continued")
        victim.suspend()
        try:
            self._rest(disturbance.seconds)
        finally:
            with suppress(psutil.NoSuchProcess):
                victim.resume()

    def _wait_for_all(self) -> None:
        """Until each member has partitions."""
        self.wait(lambda: all(m.has_partitions() for m in self._members.values()), _READY_SECONDS)

    def _victim(self, disturbance: Disturbance) -> Member:
        """One that is up: what has not yet started cannot be disturbed."""
        names = sorted(self._members)
        victim = self._members[names[int(disturbance.victim * len(names))]]
        self.wait(victim.has_partitions, _READY_SECONDS)
        return victim

    def _join(self, instance: str | None = None) -> Member:
        if instance is None:
            instance, self._next = f"member-{self._next:02d}", self._next + 1
        member = self._members[instance] = Member.start(self._scene, self._scene.disturbed, instance)
        return member

    def _note(self, kind: str) -> None:
        self.happened.append(Happened(kind, time.monotonic()))

    def _rest(self, seconds: float) -> None:
        """Let time pass, with an eye on the members."""
        self.wait(lambda: False, seconds, must=False)
