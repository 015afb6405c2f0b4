"""Partitions that were taken on, on their way to where their log was left.

First what is committed is asked for (stable: an open transaction on it is waited for, KIP-447), then the windows are
read from the steps' topic under read_committed, a slice at a time, so that the other partitions go on. The last stable
offset may still lie before the end that the commit names (transaction markers reach partitions one by one): then it is
waited for. The rest, the open steps, the core rebuilds from the events.

Where nothing or nothing readable was committed beside the offset, all steps are read: no step up to the newest of them
is published again, and events up to the one that closed it count for open steps only. At least once goes by that
only where an offset was committed: before, a round may have been written in part, and all of it is made again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from consumer.changelog import Changelog
from consumer.core import Core
from consumer.inbox import LIBRDKAFKA, hopeless
from consumer.position import Position, parse
from consumer.published import SOURCE_OFFSET, StepReader
from models.windows import PublishedSteps
from schemas.errors import FleetcastError, UnreachableError

log = structlog.get_logger(__name__)
_SLICE_RECORDS = 500  # a call: that many at once are quickest
_SLICE_CALLS = 20
_SLICE_SECONDS = 0.02
_TELL_SECONDS = 5.0
_SETTINGS: dict[str, Any] = {
    "group.id": "fleetcast-restore", "group.protocol": "classic", "enable.auto.commit": False,
    "enable.partition.eof": True, "isolation.level": "read_committed", "fetch.wait.max.ms": 20,
    "queued.max.messages.kbytes": 65_536, "fetch.queue.backoff.ms": 20,
}  # fmt: skip
Committed = Callable[[list[int]], dict[int, tuple[int, str | None]]]


@dataclass(frozen=True, slots=True)
class Restored:
    """A partition whose windows stand. ``start``: the offset to read its events from; negative is logical."""

    partition: int
    start: int
    changelog: Changelog


@dataclass(slots=True)
class _Reading:
    """A partition whose steps are being read. ``end``: None reads all there are."""

    start: int
    position: Position | None
    changelog: Changelog
    reached: int
    pending: list[Message] = field(default_factory=list)  # read, and not taken in yet
    at_end: bool = False
    read: int = 0
    skipped: int = 0
    newest_step: int = -1
    newest_source: int = -1
    began: float = field(default_factory=time.monotonic)

    @property
    def end(self) -> int | None:
        return None if self.position is None else self.position.steps_end

    @property
    def done(self) -> bool:
        """Whether all of it was taken in."""
        return not self.pending and (self.at_end if self.end is None else self.reached >= self.end)


class Restorer:
    """One member's partitions on their way in."""

    def __init__(
        self, core: Core, kafka: dict[str, Any], topic: str, reader: StepReader, committed: Committed, *, atomic: bool
    ) -> None:
        """Nothing to restore yet.

        Args:
            core: whose windows they are.
            kafka: librdkafka properties.
            topic: the steps'.
            reader: of steps.
            committed: offset and metadata by partition, of those that have any; may raise.
            atomic: steps are there with their round's offsets, or not at all.
        """
        self._core, self._kafka, self._topic, self._reader = core, kafka, topic, reader
        self._committed, self._atomic = committed, atomic
        self._new: set[int] = set()
        self._reading: dict[int, _Reading] = {}
        self._consumer: Consumer | None = None
        self._ready: list[Restored] = []
        self._told_at = 0.0
        self._retry_at = 0.0

    @property
    def waiting(self) -> set[int]:
        """Partitions that are not there yet."""
        return self._new | self._reading.keys()

    def add(self, partition: int) -> None:
        """It was taken on."""
        self.drop(partition)
        self._new.add(partition)

    def drop(self, partition: int) -> None:
        """It went."""
        self._new.discard(partition)
        self._ready = [r for r in self._ready if r.partition != partition]
        if self._reading.pop(partition, None) is not None and self._consumer is not None:
            self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])

    def turn(self) -> list[Restored]:
        """A slice of the work; returns the partitions that are ready.

        Raises:
            FleetcastError: the steps cannot be read.
        """
        if time.monotonic() < self._retry_at:
            return []
        try:
            if self._new:
                self._ask()
            if self._reading:
                self._read()
        except UnreachableError as error:  # what was read is kept, and taken in later
            log.warning("restoring waits", reason=str(error))
            self._retry_at = time.monotonic() + 1
        ready, self._ready = self._ready, []
        if not self._reading and self._consumer is not None:
            self._consumer.close()
            self._consumer = None
        return ready

    def close(self) -> None:
        """Stop reading."""
        if self._consumer is not None:
            self._consumer.close()

    def _ask(self) -> None:
        """Where each new partition was left; those without any window to read are ready at once."""
        asked = sorted(self._new)
        found = self._committed(asked)
        self._new.difference_update(asked)
        begin = []
        for partition in asked:
            offset, metadata = found.get(partition, (OFFSET_BEGINNING, None))
            position = parse(offset, metadata)
            if position is None and offset >= 0:
                log.warning("no readable metadata beside the committed offset: all steps are read", partition=partition)
            start = 0 if position is None else position.steps_from
            changelog = Changelog(start, 0 if position is None else position.steps_end)
            reading = _Reading(offset, position, changelog, reached=start)
            uncommitted = not self._atomic and offset < 0  # steps may be there of a round that was not finished
            if uncommitted or (position is not None and position.steps_from >= position.steps_end):
                self._finish(partition, reading)
            else:
                self._reading[partition] = reading
                begin.append(TopicPartition(self._topic, partition, start))
        if begin:
            if self._consumer is None:
                self._consumer = Consumer({**self._plain(), **_SETTINGS}, logger=LIBRDKAFKA)
            self._consumer.incremental_assign(begin)

    def _plain(self) -> dict[str, Any]:
        """The settings that are not about the group."""
        group = ("group.", "session.", "heartbeat.", "partition.assignment", "max.poll")
        return {name: value for name, value in self._kafka.items() if not name.startswith(group)}

    def _read(self) -> None:
        assert self._consumer is not None  # noqa: S101  _ask made it
        waiting = any(reading.pending for reading in self._reading.values())
        for message in [] if waiting else self._slice(self._consumer):
            partition, error = int(message.partition() or 0), message.error()
            reading = self._reading.get(partition)
            if error is None:
                if reading is not None:
                    reading.pending.append(message)
                    reading.at_end = False
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  its public name in the bindings
                if reading is not None:
                    reading.at_end = True
                    reading.reached = max(reading.reached, int(message.offset() or 0))
            elif hopeless(error):
                raise FleetcastError(f"cannot read {self._topic}: {error.str()}")
            else:
                log.warning("reading the steps is disturbed; retrying", reason=error.str())
        for partition, reading in list(self._reading.items()):
            if reading.pending:
                self._apply(partition, reading)
            if reading.done:
                self._finish(partition, reading)
        self._tell()

    @staticmethod
    def _slice(consumer: Consumer) -> list[Message]:
        found: list[Message] = []
        for _ in range(_SLICE_CALLS):
            more = consumer.consume(_SLICE_RECORDS, 0 if found else _SLICE_SECONDS)
            found += more
            if len(more) < _SLICE_RECORDS:
                break
        return found

    def _apply(self, partition: int, reading: _Reading) -> None:
        messages, end = reading.pending, reading.end
        last = int(messages[-1].offset() or 0)
        if end is not None and last >= end:  # what lies behind is of a transaction that our position does not know of
            messages = [m for m in messages if int(m.offset() or 0) < end]
        values: list[Any] = [m.value() for m in messages]  # bytes or None: this consumer makes no text of them
        found = self._reader.read(values)
        reading.reached = max(reading.reached, last + 1)
        reading.pending = []
        self._core.restore(partition, self._known(found.steps, reading.position))
        reading.read += len(found.kept)
        reading.skipped += found.skipped
        largest = np.maximum.accumulate(np.append(reading.newest_step, found.steps.step))
        for at in np.flatnonzero(np.diff(largest)).tolist():  # the first of each step that is larger than all before
            reading.newest_step = int(found.steps.step[at])
            reading.changelog.note(reading.newest_step + 1, int(messages[found.kept[at]].offset() or 0))
        if reading.position is None and len(found.kept):
            sources = [_source(messages[row]) for row in found.kept.tolist()]
            reading.newest_source = max(reading.newest_source, *sources)

    def _known(self, steps: PublishedSteps, position: Position | None) -> PublishedSteps:
        """Those that were closed where the log was left.

        At least once, others may stand among them, of a member that went on from there and did not live to commit.
        """
        if self._atomic or position is None:
            return steps
        step_ms = self._core.model.contract.step_ms
        return steps.take((steps.step + 1) * step_ms <= (position.watermark_ms or 0))

    def _finish(self, partition: int, reading: _Reading) -> None:
        self.drop(partition)
        position = reading.position
        if position is not None:
            self._core.resume(partition, position.next_offset, position.watermark_ms)
        elif reading.newest_step >= 0:
            watermark = (reading.newest_step + 1) * self._core.model.contract.step_ms
            reading.changelog.end = reading.reached
            self._core.resume(partition, reading.newest_source + 1, watermark, exact=False)
        log.info(
            "partition restored", partition=partition, steps=reading.read, passed_over=reading.skipped,
            seconds=round(time.monotonic() - reading.began, 2), next_offset=position.next_offset if position else None,
        )  # fmt: skip
        self._ready.append(Restored(partition, reading.start, reading.changelog))

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            left = {p: None if r.end is None else max(r.end - r.reached, 0) for p, r in self._reading.items()}
            log.info("restoring", steps=sum(r.read for r in self._reading.values()), left=left)


def _source(message: Message) -> int:
    for header in message.headers() or []:
        if header[0] == SOURCE_OFFSET and header[1] is not None:
            return int(header[1])
    return -1
