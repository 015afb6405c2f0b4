"""The service: poll, process, publish, commit; and the order in which it stops.

At least once: offsets are committed only after everything made from them is on the broker. The committed offset is the
first one whose event still sits in an open step, as it was when the last whole batch had been published. Order of a
stop: stop polling, finish the batch, flush, commit, leave the group, close.
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
from consumer.outbox import GivenUpError, Outbox
from schemas.errors import UnreachableError
from schemas.topics import Topics

log = structlog.get_logger(__name__)
_REPORT_SECONDS = 10.0
_STUCK_SECONDS = 120.0  # a batch that closes a step of ten thousand servers takes half a minute


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How the service runs.

    Attributes:
        poll_records: most records of one batch. poll_seconds: longest wait for one.
        commit_seconds: shortest time between commits.
        retry_seconds: pause of a partition whose schema cannot be looked up now.
        shutdown_timeout_seconds: longest time to deliver what is left when asked to stop, or when a partition goes.
        until_idle_seconds: end after so long without anything to read; None: never.
    """

    group_id: str = "fleetcast"
    poll_records: int = 2_000
    poll_seconds: float = 0.1
    commit_seconds: float = 0.5
    retry_seconds: float = 1.0
    shutdown_timeout_seconds: float = 10.0
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
        self._options, self._clock, self._stop = options, clock, stop
        self._positions: dict[int, int] = {}  # what may be committed, by partition: of whole batches only
        self._retry_at: dict[int, float] = {}
        self._committed_at = self._busy_at = self._reported_at = self._turned_at = self.started
        self._give_up_at: float | None = None
        self._current = self._failed = self._releasing = False
        self._figures: dict[str, Any] = {}
        self._outbox = Outbox(kafka, self._while_waiting)
        self._inbox = Inbox(kafka, options.group_id, topics.metrics, self._take_on, self._release)
        self._note_figures()

    def status(self) -> dict[str, Any]:
        """Figures of the last turn, for people and probes; safe from any thread.

        ``ready``: every assigned partition was read to its end since it was assigned, and if there are servers, some
        window can be forecast from. ``alive``: the loop turns.
        """
        alive = self._clock() - self._turned_at < _STUCK_SECONDS
        return {**self._figures, "alive": alive, "ready": alive and bool(self._figures["ready"])}

    def run(self) -> None:
        """Serve until stopped or idle.

        Raises:
            FleetcastError: a record cannot be delivered, or the input cannot be read.
        """
        try:
            while not self._stop.is_set() and not self._idle():
                self._turn()
            self._give_up_at = self._clock() + self._options.shutdown_timeout_seconds
            self._commit()
        except GivenUpError:
            log.warning("stopped before everything was delivered; what is left is read again at the next start")
        except BaseException:
            self._failed = True  # nothing may be committed from here on, also not while leaving the group
            raise
        finally:
            self._give_up_at = self._clock() + self._options.shutdown_timeout_seconds
            self._inbox.close()
            self._outbox.close()
            self._note_figures()
        log.info("stopped", **self._figures)

    def _turn(self) -> None:
        batches = self._inbox.poll(self._options.poll_records, self._options.poll_seconds)
        states = {partition: self.core.state(partition) for partition in batches}
        for partition, records in batches.items():
            if self.core.state(partition) is states[partition]:  # else it went, or came back and is read anew
                self._process(partition, records)
        now = self._turned_at = self._clock()
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
        state = self.core.state(partition)
        self._outbox.publish(output)
        if self.core.state(partition) is state:
            first_open = self.core.first_open_offset(partition)
            following = records[-1].offset + 1
            self._positions[partition] = following if first_open is None else min(first_open, following)

    def _commit(self) -> None:
        """The one place that commits: first everything is delivered, then the offsets move."""
        self._committed_at = self._clock()
        if not self._positions or self._failed:
            return
        self._outbox.flush()
        if self._inbox.commit(self._positions):
            self._positions = {}

    def _while_waiting(self) -> None:
        """The broker does not take what we publish: stay a member of the group, and end when asked to.

        Raises:
            GivenUpError: the time to end in order is over.
        """
        now = self._turned_at = self._clock()
        if self._stop.is_set() and self._give_up_at is None:
            self._give_up_at = now + self._options.shutdown_timeout_seconds
        if self._give_up_at is not None and now >= self._give_up_at:
            raise GivenUpError
        if not self._releasing:  # a rebalance callback runs inside the consumer's poll, which must not be entered twice
            self._inbox.keep_alive()

    def _take_on(self, partition: int) -> None:
        self.core.add(partition)
        self._current = False

    def _release(self, partition: int) -> None:
        """A partition goes: commit what was made of it while it is still ours, then forget it."""
        ends_at, self._give_up_at = self._give_up_at, self._clock() + self._options.shutdown_timeout_seconds
        self._releasing = True
        try:
            if partition in self._positions:
                self._commit()
        except GivenUpError:
            log.warning("a partition went before everything was delivered; its next owner reads it again")
        finally:
            self._give_up_at, self._releasing = ends_at, False
        self._positions.pop(partition, None)
        self._retry_at.pop(partition, None)
        self.core.remove(partition)
        self._current = False

    def _idle(self) -> bool:
        limit = self._options.until_idle_seconds
        if limit is None or self._retry_at or not self._inbox.caught_up or self._clock() - self._busy_at < limit:
            return False
        sure = self._inbox.at_end_for_sure()  # a broker that is away is no idle one
        if not sure:
            self._busy_at = self._clock()
        return sure

    def _report(self, now: float) -> None:
        became_current = self._inbox.caught_up and not self._current
        self._current = self._current or became_current
        self._note_figures()
        if became_current:
            log.info("caught up", seconds=round(now - self.started, 1), **self._figures)
        if now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            log.info("consuming", **self._figures)

    def _note_figures(self) -> None:
        counts, servers, can_forecast = self.core.counts, self.core.servers, self.core.servers_with_window
        held_any = bool(self.core.partitions)
        self._figures = {
            "ready": held_any and self._current and (can_forecast > 0 or servers == 0),
            "partitions": len(self.core.partitions), "servers": servers, "servers_with_window": can_forecast,
            "events": counts.events, "steps": counts.steps, "held": counts.held_steps, "forecasts": counts.forecasts,
            "withheld": counts.withheld, "watermark_jumps": counts.watermark_jumps, "refused": dict(counts.refused),
        }  # fmt: skip
