"""The service: poll, process, write, commit; how partitions come and go; and the order in which it stops.

A batch is processed whole, with its inference, before a round of writing begins, so that the round lasts as long as
writing does; one of few forecasts is written while it is made. Meanwhile the next partition's batch is begun: its state
runs ahead. What is committed of a partition is where its log stood after the last whole batch. Order of a stop: finish
the batch if there is time, write, commit, leave the group, close.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import structlog
from confluent_kafka import TopicPartition

from consumer.changelog import Changelog
from consumer.core import Batch, Core
from consumer.delivery import AbortedError, BrokenError, delivery
from consumer.inbox import Inbox
from consumer.ledger import Entry, Ledger
from consumer.messages import Outgoing, Records
from consumer.options import EXACTLY_ONCE, ServiceOptions
from consumer.outbox import GivenUpError
from consumer.pace import Pace
from consumer.position import Position
from consumer.published import StepReader
from consumer.restore import Restored, Restorer
from schemas.errors import UnreachableError
from schemas.topics import Topics

log = structlog.get_logger(__name__)
_REPORT_SECONDS = 10.0
_STUCK_SECONDS = 120.0  # a block of inference takes a second
_LOOK_SECONDS = 0.5  # between two looks at what else is asked of us while a batch is processed
_KEEP_ALIVE_SECONDS = 2.0  # between two polls meanwhile; each costs what was fetched already


class Service:
    """One member of the group."""

    def __init__(
        self,
        core: Core,
        *,
        kafka: dict[str, Any],
        topics: Topics,
        options: ServiceOptions,
        reader: StepReader,
        stop: threading.Event,
        hurry: threading.Event | None = None,
        joined: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Fence the former life of this instance and join the group; nothing is read yet.

        Args:
            core: makes the records.
            kafka: librdkafka properties for all clients.
            topics: their names.
            options: how to run.
            reader: of published steps.
            stop: ends it in order.
            hurry: ends it without waiting for the broker.
            joined: is told what the group knows this member by; the empty text when it has left.
            clock: seconds.
        """
        self.core = core
        self.started = clock()
        self._options, self._clock, self._stop = options, clock, stop
        self._hurry = hurry or threading.Event()
        self._ledger, self._pace = Ledger(), Pace()
        self._changelogs: dict[int, Changelog] = {}
        self._starting: list[Restored] = []  # restored, not yet sought to
        self._retry_at: dict[int, float] = {}  # partitions of an unknown schema; inf: being tried again
        self._committed_at = self._busy_at = self._reported_at = self._turned_at = self._polled_at = self.started
        self._give_up_at: float | None = None
        self._write_again_at = 0.0
        self._current = self._failed = self._writing = self._in_callback = self._broken = False
        self._out_of_time, self._restoring = False, 0  # the former in the middle of a batch that is being written
        self._figures: dict[str, Any] = {}
        self._note_figures()
        self._inbox = Inbox(
            kafka, options.group_id, topics.metrics, added=self._take_on, removed=self._release, joined=joined
        )
        atomic = options.guarantee == EXACTLY_ONCE
        self._restorer = Restorer(core, kafka, topics.steps, reader, self._inbox.committed, atomic=atomic)
        self._delivery = delivery(options, kafka, topics.steps, self._inbox, self._while_writing)
        self._delivery.start()

    def status(self) -> dict[str, Any]:
        """Figures of the last turn, for people and probes; safe from any thread.

        ``ready``: every assigned partition is restored and was read to its end since, and if there are servers, some
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
            self._serve()
            self._drain()
        except GivenUpError:
            log.warning("stopped before everything was delivered; what is left is read again at the next start")
        except BaseException:
            self._failed = True  # nothing may be committed from here on, also not while leaving the group
            raise
        finally:
            self._give_up_at = self._clock() + self._options.shutdown_timeout_seconds
            self._delivery.close()
            self._failed = True
            self._inbox.close()
            self._restorer.close()
            self._note_figures()
        log.info("stopped", **self._figures)

    def _serve(self) -> None:
        """Until asked to stop, or idle. A batch that takes longer than there is time for is left to the next life."""
        with contextlib.suppress(GivenUpError):
            while not self._stop.is_set() and not self._idle():
                self._turn()

    def _drain(self) -> None:
        """Deliver what is whole.

        Raises:
            GivenUpError: the time for it is over.
        """
        self._deadline()
        while self._ledger and not self._broken:
            self._write_again_at = 0
            self._commit()
            if self._ledger:
                self._while_writing()

    def _deadline(self) -> float:
        """When the time to end in order is over; it begins when this is asked first."""
        if self._give_up_at is None:
            self._give_up_at = self._clock() + self._options.shutdown_timeout_seconds
        return self._give_up_at

    def _turn(self) -> None:
        if self._broken:
            self._start_over()
        self._restore()
        waiting = bool(self._restorer.waiting or self._starting)
        self._restoring = len(self._restorer.waiting) + len(self._starting)
        batches = self._inbox.poll(self._options.poll_records, 0 if waiting else self._poll_seconds())
        self._polled_at = self._clock()
        self._process(batches)
        now = self._turned_at = self._clock()
        if batches or waiting or not self._inbox.caught_up:
            self._busy_at = now
        for partition in [p for p, at in self._retry_at.items() if at <= now]:
            self._retry_at[partition] = math.inf  # until a batch of it is taken in
            self._inbox.resume(partition)
        if now - self._committed_at >= self._options.commit_seconds:
            self._commit()
        self._report(now)

    def _poll_seconds(self) -> float:
        """How long to wait for records: what is to be committed is not kept waiting with them."""
        if not self._ledger:
            return self._options.poll_seconds
        due_at = max(self._committed_at + self._options.commit_seconds, self._write_again_at)
        return min(self._options.poll_seconds, max(due_at - self._clock(), 0.0))

    def _process(self, batches: dict[int, Records]) -> None:
        """One partition after another; inference for the next is on its way while the one before is written."""
        states = {partition: self.core.state(partition) for partition in batches}
        began, made = self._clock(), self.core.counts.forecasts
        before: Batch | None = None
        for partition, records in batches.items():
            if partition in self._retry_at:  # its schema may keep us waiting again
                self._finish(before)
                before = None
            following = None
            if not self._broken and self.core.state(partition) is states[partition]:  # else it went, or is read anew
                following = self._begin(partition, records)
            self._finish(before)
            before = following
        self._finish(before)
        self._pace.note(self.core.counts.forecasts - made, self._clock() - began)

    def _begin(self, partition: int, records: Records) -> Batch | None:
        """None where its schema cannot be looked up: nothing of it was taken in."""
        try:
            batch = self.core.process(partition, records)
        except UnreachableError as error:
            log.warning("a schema cannot be looked up; its partition waits", partition=partition, error=str(error))
            self._inbox.pause(partition)
            self._inbox.rewind(partition, int(records.offset[0]))
            self._retry_at[partition] = self._clock() + self._options.retry_seconds
            return None
        self._retry_at.pop(partition, None)
        return batch

    def _finish(self, batch: Batch | None) -> None:
        """A whole batch into the ledger, or nothing of it; its partition may have gone before it came to its turn."""
        if batch is None or self.core.state(batch.partition) is not batch.state:
            return
        records, now = self._made(batch), self._clock()
        due = now - self._committed_at >= self._options.commit_seconds
        if now >= self._write_again_at and self._pace.is_worth_a_round(batch.forecasts, due=due):
            self._commit(self._streamed(batch.partition, records))
        if self._out_of_time:
            raise GivenUpError
        if self._broken:
            return
        for _ in records:  # also what an aborted round left of it
            pass
        if self._ledger.bytes >= self._options.commit_bytes:
            self._commit()

    def _made(self, batch: Batch) -> Iterator[Outgoing]:
        """What a batch leads to; in the end it is in the ledger, unless its partition went: its next owner makes it."""
        made: list[Outgoing] = []
        partition = batch.partition
        for record in batch.records:
            made.append(record)
            yield record
            if self._clock() - self._turned_at >= _LOOK_SECONDS:
                self._while_processing()
            if self.core.state(partition) is not batch.state:
                return
        self._ledger.add(partition, made, self.core.mark(partition, batch.following))

    def _streamed(self, partition: int, batch: Iterator[Outgoing]) -> Iterator[Outgoing]:
        """The records of a batch for the round that is being written.

        Raises:
            AbortedError: a partition of the round went, and the batch is whole or gone; or there is no time for it.
        """
        try:
            for record in batch:
                yield record
                if self._ledger.changes != self._changes_then:
                    break
        except GivenUpError:  # there is time left for what is whole
            self._out_of_time = True
            raise AbortedError("stopped while its records were made") from None
        if self._ledger.changes != self._changes_then or partition not in self._ledger.open():
            raise AbortedError("a partition went while its records were made")

    def _commit(self, batch: Iterator[Outgoing] | None = None) -> None:
        """The one place that commits: what the ledger holds and the offsets it was made from, in one round.

        ``batch``: goes with them while it is made; the ledger has it in the end.
        """
        now = self._clock()
        nothing = not self._ledger and batch is None
        if nothing or self._failed or self._broken or now < self._write_again_at:
            return
        self._committed_at = now  # not of a turn without anything: what comes after a silence is committed at once
        records = (record for entry in self._ledger.open().values() for record in entry.records)
        entries: dict[int, Entry] = {}
        positions: dict[int, Position] = {}

        def offsets(ends: dict[int, int]) -> list[TopicPartition]:
            entries.update(self._ledger.open())
            for partition, entry in entries.items():
                positions[partition] = self._changelogs[partition].position(entry.mark, ends.get(partition, 0))
            return [self._inbox.offset(p, at.resume_offset, at.metadata()) for p, at in positions.items()]

        self._writing, self._changes_then = True, self._ledger.changes
        try:
            self._delivery.write(records if batch is None else chain(records, batch), offsets)
        except AbortedError:
            self._write_again_at = self._clock() + min(self._options.retry_seconds, 0.5)
            return
        except BrokenError:
            self._broken = True
            return
        except GivenUpError:  # nor is it known what became of it
            self._broken = True
            raise
        finally:
            self._writing = False
        for partition, position in positions.items():
            if partition in self._changelogs:  # else it went while its round was committed
                self._changelogs[partition].settle(entries[partition].mark, position)
        self._ledger.settle(entries)

    def _while_processing(self) -> None:
        """A batch takes long: stay a member of the group, and end when asked to.

        Raises:
            GivenUpError: half of the time to end in order is over; the other half is for what is whole.
        """
        now = self._turned_at = self._clock()
        half = self._options.shutdown_timeout_seconds / 2
        if self._stop.is_set() and (self._hurry.is_set() or self._deadline() - now < half):
            raise GivenUpError
        if now - self._polled_at >= _KEEP_ALIVE_SECONDS:
            self._polled_at = now
            self._inbox.keep_alive()
        self._note_figures()

    def _while_writing(self) -> None:
        """The broker does not take what we write: stay a member of the group, and end when asked to.

        Raises:
            AbortedError: a partition whose records are being written went.
            GivenUpError: the time to end in order is over.
        """
        now = self._polled_at = self._turned_at = self._clock()
        if self._stop.is_set():
            self._deadline()
        if self._hurry.is_set() or (self._give_up_at is not None and now >= self._give_up_at):
            raise GivenUpError
        if self._in_callback:  # runs inside the consumer's poll, which must not be entered twice
            return
        self._inbox.keep_alive()
        if self._writing and self._ledger.changes != self._changes_then:
            raise AbortedError("a partition went while its records were written")

    def _take_on(self, partition: int) -> None:
        self.core.add(partition)
        self._restorer.add(partition)
        self._current = False

    def _release(self, partitions: list[int]) -> None:
        """Partitions go: commit what was made of them while they are still ours, then forget them.

        Where a round is being written already, it is aborted: the next owner makes their part of it again.
        """
        if not self._writing and self._inbox.holds(partitions) and any(p in self._ledger.open() for p in partitions):
            ends_at, self._give_up_at = self._give_up_at, self._clock() + self._options.shutdown_timeout_seconds
            self._in_callback = True
            try:
                self._write_again_at = 0
                self._commit()
            except GivenUpError:
                log.warning("partitions went before everything was delivered; their next owner makes it again")
            finally:
                self._give_up_at, self._in_callback = ends_at, False
        for partition in partitions:
            self._forget(partition)

    def _forget(self, partition: int) -> None:
        self._ledger.drop(partition)
        self._retry_at.pop(partition, None)
        self._changelogs.pop(partition, None)
        self._starting = [r for r in self._starting if r.partition != partition]
        self._restorer.drop(partition)
        self.core.remove(partition)
        self._current = False

    def _start_over(self) -> None:
        """What became of the last round is not known: restore every partition from what is committed."""
        self._broken = False
        for partition in self.core.partitions:
            self._forget(partition)
            self._inbox.hold(partition)
            self._take_on(partition)

    def _restore(self) -> None:
        """A slice of bringing partitions in; those whose windows stand are read from where they were left."""
        if self._restorer.waiting:
            self._starting += self._restorer.turn()
        for restored in list(self._starting):
            if self._inbox.start(restored.partition, restored.start):
                self._starting.remove(restored)
                self._changelogs[restored.partition] = restored.changelog

    def _idle(self) -> bool:
        limit = self._options.until_idle_seconds
        busy = self._retry_at or self._ledger or self._broken or self._restorer.waiting or self._starting
        if limit is None or busy or not self._inbox.caught_up or self._clock() - self._busy_at < limit:
            return False
        sure = self._inbox.at_end_for_sure()  # a broker that is away is no idle one
        if not sure:
            self._busy_at = self._clock()
        return sure

    def _report(self, now: float) -> None:
        became_current = self._inbox.caught_up and not self._restorer.waiting and not self._current
        self._current = self._current or became_current
        self._note_figures()
        if became_current:
            log.info("caught up", seconds=round(now - self.started, 1), **self._figures)
        if now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            log.info("consuming", **self._figures)

    def _note_figures(self) -> None:
        found = self.core.figures()
        can_forecast = found["servers_with_window"] > 0 or found["servers"] == 0
        ready = found["partitions"] > 0 and self._current and can_forecast
        self._figures = {"ready": ready, "restoring": self._restoring, **found}
