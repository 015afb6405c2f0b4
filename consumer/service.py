"""The service: poll, process, publish, commit; and the order in which it stops.

At least once: offsets are committed only after everything made from them is on the broker. The committed offset is the
first one whose event still sits in an open step. Order of a stop: stop polling, finish the batch, flush, commit, leave
the group, close.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from consumer.core import Core
from consumer.inbox import Inbox
from consumer.messages import Incoming
from consumer.outbox import Outbox
from schemas.errors import UnreachableError
from schemas.topics import Topics

log = structlog.get_logger(__name__)
_REPORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How the service runs.

    Attributes:
        poll_records: most records of one batch. poll_seconds: longest wait for one.
        commit_seconds: shortest time between commits.
        retry_seconds: pause of a partition whose schema cannot be looked up now.
        until_idle_seconds: end after so long without anything to read; None: never.
    """

    group_id: str = "fleetcast"
    poll_records: int = 2_000
    poll_seconds: float = 0.1
    commit_seconds: float = 0.5
    retry_seconds: float = 1.0
    until_idle_seconds: float | None = None


class Service:
    """One member of the group."""

    def __init__(
        self,
        core: Core,
        *,
        kafka: dict[str, Any],
        topics: Topics,
        options: ServiceOptions,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join the group; nothing is read yet. ``kafka``: librdkafka properties for both clients. ``stop``: ends it."""
        self.core = core
        self.started = clock()
        self._options, self._clock = options, clock
        self._stop = stop
        self._next: dict[int, int] = {}
        self._retry_at: dict[int, float] = {}
        self._committed_at = self._busy_at = self._reported_at = self.started
        self._current = False
        self._outbox = Outbox(kafka)
        self._inbox = Inbox(kafka, options.group_id, topics.metrics, self._take_on, self._give_up)

    @property
    def ready(self) -> bool:
        """Every assigned partition has been read to its end once since it was assigned: forecasts are current."""
        return self._current

    def status(self) -> dict[str, Any]:
        """Figures for people and probes."""
        return {"ready": self.ready, "caught_up": self._inbox.caught_up, **self._figures()}

    def run(self) -> None:
        """Serve until stopped or idle.

        Raises:
            FleetcastError: a record cannot be delivered, or the input cannot be read.
        """
        try:
            while not self._stop.is_set() and not self._idle():
                self._turn()
            self._commit()
        finally:
            self._inbox.close()
            self._outbox.close()
        log.info("stopped", **self._figures())

    def _turn(self) -> None:
        batches = self._inbox.poll(self._options.poll_records, self._options.poll_seconds)
        for partition, records in batches.items():
            self._process(partition, records)
        now = self._clock()
        if batches or not self._inbox.caught_up:
            self._busy_at = now
        for partition in [p for p, at in self._retry_at.items() if at <= now]:
            del self._retry_at[partition]
            self._inbox.resume(partition)
        if now - self._committed_at >= self._options.commit_seconds:
            self._commit()
        self._report(now)

    def _process(self, partition: int, records: list[Incoming]) -> None:
        try:
            output = self.core.process(partition, records)
        except UnreachableError as error:
            log.warning("a schema cannot be looked up; its partition waits", partition=partition, error=str(error))
            self._inbox.pause(partition)
            self._inbox.rewind(partition, records[0].offset)
            self._retry_at[partition] = self._clock() + self._options.retry_seconds
            return
        self._outbox.publish(output)
        self._next[partition] = records[-1].offset + 1

    def _commit(self) -> None:
        """The one place that commits: first everything is delivered, then the offsets move."""
        self._committed_at = self._clock()
        if not self._next:
            return
        while not self._outbox.flush(timeout_s=5):
            log.warning("the broker takes long to accept what was published; waiting")
        if self._inbox.commit({p: self._position(p, following) for p, following in self._next.items()}):
            self._next.clear()

    def _position(self, partition: int, following: int) -> int:
        first_open = self.core.first_open_offset(partition)
        return following if first_open is None else min(first_open, following)

    def _take_on(self, partition: int) -> None:
        self.core.add(partition)
        self._current = False

    def _give_up(self, partition: int) -> None:
        """A partition goes: commit what was made of it while it is still ours, then forget it."""
        if partition in self._next:
            self._commit()
        self._next.pop(partition, None)
        self._retry_at.pop(partition, None)
        self.core.remove(partition)

    def _idle(self) -> bool:
        limit = self._options.until_idle_seconds
        waiting = bool(self._retry_at) or not self._inbox.caught_up
        return limit is not None and not waiting and self._clock() - self._busy_at >= limit

    def _report(self, now: float) -> None:
        if self._inbox.caught_up and not self._current:
            self._current = True
            log.info("ready", seconds=round(now - self.started, 1), **self._figures())
        if now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            log.info("consuming", **self._figures())

    def _figures(self) -> dict[str, Any]:
        counts = self.core.counts
        return {
            "partitions": len(self.core.partitions), "servers": self.core.servers, "events": counts.events,
            "steps": counts.steps, "held": counts.held_steps, "forecasts": counts.forecasts,
            "withheld": counts.withheld, "refused": counts.refused,
        }  # fmt: skip
