"""The one consumer of the service: records by partition, and which partitions are at their end."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.messages import Incoming, Records
from consumer.quiet import Seldom
from schemas.errors import FleetcastError, UnreachableError

log = structlog.get_logger(__name__)
LIBRDKAFKA = logging.getLogger("librdkafka")
LIBRDKAFKA.addFilter(Seldom())
_DEFAULTS: dict[str, Any] = {
    "group.protocol": "consumer",  # KIP-848
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 50,
    "queued.max.messages.kbytes": 65_536,
}
_ASK_SECONDS = 2.0
_AT_ONCE = 500  # messages of one call: that many are quickest
# No waiting mends these. A consumer's fatal error comes as _FATAL, once, and fatal() of it is False; after it there is
# silence (confluent-kafka 2.16).
_HOPELESS = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._FATAL,  # noqa: SLF001  its public name in librdkafka's bindings
)  # fmt: skip


def hopeless(error: KafkaError) -> bool:
    """Whether a consumer's error is one that no waiting mends."""
    return error.fatal() or error.code() in _HOPELESS


class Inbox:
    """Reads the input topic as a member of the group.

    A partition that was assigned is held: nothing of it is handed out until ``start`` says from where.
    """

    def __init__(
        self,
        config: dict[str, Any],
        group_id: str,
        topic: str,
        *,
        added: Callable[[int], None],
        removed: Callable[[list[int]], None],
        joined: Callable[[str], None],
    ) -> None:
        """Subscribe. ``removed`` is called before partitions are given away, or after they were lost.

        ``joined`` is told the member's id in the group, and the empty text when it has left in order.
        """
        self._topic, self._added, self._removed, self._joined = topic, added, removed, joined
        self._at_end: dict[int, int] = {}  # offset of the end, by partition that was read to it
        self._assigned: set[int] = set()
        self._held: set[int] = set()  # not started yet
        self._paused: set[int] = set()
        self._fetching: set[int] = set()  # as librdkafka knows it
        self._unknown: set[int] = set()  # just assigned: librdkafka keeps a pause over a loss, or begins by itself
        self._stash: list[Message] = []  # came while nothing was to be handed out
        self._raised: BaseException | None = None  # by a callback: it may not leave that, or a batch would be lost
        self.joined = False
        settings = {**_DEFAULTS, **config, "group.id": group_id}
        if settings["group.protocol"] == "classic":
            settings.setdefault("partition.assignment.strategy", "cooperative-sticky")
        self._consumer = Consumer(settings, logger=LIBRDKAFKA)
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    @property
    def caught_up(self) -> bool:
        """An assignment is known, and each of its partitions has been read to its end."""
        return self.joined and self._assigned <= self._at_end.keys()

    def at_end_for_sure(self) -> bool:
        """Ask the broker whether there is nothing more to read; False where it does not answer."""
        try:
            for partition in self._assigned:
                _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=5)
                if high > self._at_end.get(partition, -1):
                    return False
        except KafkaException as failure:
            log.warning("the broker does not say whether there is more to read", error=failure.args[0].str())
            return False
        return True

    def committed(self, partitions: list[int]) -> dict[int, tuple[int, str | None]]:
        """Committed offset and metadata, of those that have any; an open transaction on one is waited for.

        Raises:
            UnreachableError: the broker does not say now.
        """
        wanted = [TopicPartition(self._topic, p) for p in partitions]
        try:
            found = self._consumer.committed(wanted, timeout=_ASK_SECONDS)
        except KafkaException as failure:
            raise UnreachableError(f"the committed offsets are not known: {failure.args[0].str()}") from None
        for p in found:
            if p.error is not None:
                raise UnreachableError(f"the committed offset of {self._topic}/{p.partition}: {p.error.str()}")
        return {p.partition: (p.offset, p.metadata) for p in found if p.offset >= 0}

    def start(self, partition: int, offset: int) -> bool:
        """Hand out a held partition's records from ``offset`` on; False where it must be tried again."""
        try:
            self._consumer.seek(TopicPartition(self._topic, partition, offset))
        except KafkaException as failure:
            log.debug("seek is not possible yet", partition=partition, error=failure.args[0].str())
            return False
        self._at_end.pop(partition, None)
        self._held.discard(partition)
        self._paused.discard(partition)  # whatever it waited for in its former life here
        self._stash = [m for m in self._stash if m.partition() != partition]
        return True

    def hold(self, partition: int) -> None:
        """Hand out nothing of a partition until it is started again."""
        self._held.add(partition)
        self._at_end.pop(partition, None)

    def holds(self, partitions: list[int]) -> bool:
        """Whether all of them are ours."""
        return self._assigned.issuperset(partitions)

    def keep_alive(self) -> None:
        """Stay a member of the group while nothing can be processed: poll without reading.

        What the group says is heard behind all that was fetched, so this is forgotten first (pausing does it). It is
        fetched again at once: librdkafka takes up to a second to begin with that (2.16, no wake-up on resume).
        """
        wanted = set(self._fetching)
        self._fetch(set())
        self._stash += self._events(self._consume(1, 0))  # fetched before the pause
        self._fetch(wanted - self._held - self._paused)

    def poll(self, limit: int, timeout_s: float) -> dict[int, Records]:
        """Up to about ``limit`` records by partition.

        Raises:
            FleetcastError: the broker reports an error that does not heal by itself.
        """
        self._fetch(self._assigned - self._held - self._paused)
        messages, self._stash = self._stash, []
        messages += self._events(self._consume(limit, 0 if messages else timeout_s))
        batches: dict[int, list[Message]] = {}
        for message, partition in zip(messages, [m.partition() for m in messages], strict=True):
            batches.setdefault(int(partition or 0), []).append(message)
        # One may have been given away, or taken on, by a callback inside consume().
        return {p: _records(batch) for p, batch in batches.items() if p in self._assigned and p not in self._held}

    def rewind(self, partition: int, offset: int) -> None:
        """Read again from ``offset``."""
        self._stash = [m for m in self._stash if m.partition() != partition]
        self._consumer.seek(TopicPartition(self._topic, partition, offset))

    def pause(self, partition: int) -> None:
        """Fetch nothing of a partition for now."""
        self._paused.add(partition)
        self._fetch(self._fetching - {partition})

    def resume(self, partition: int) -> None:
        """Fetch it again."""
        self._paused.discard(partition)

    def group_metadata(self) -> Any:
        """Of this moment, for a transaction."""
        return self._consumer.consumer_group_metadata()

    def offset(self, partition: int, offset: int, metadata: str) -> TopicPartition:
        """What is committed of a partition."""
        return TopicPartition(self._topic, partition, offset, metadata=metadata)

    def commit(self, offsets: list[TopicPartition]) -> bool:
        """Commit outside a transaction, of partitions that are still ours; False where it must be tried again.

        Raises:
            FleetcastError: the client can do no more.
        """
        mine = [p for p in offsets if p.partition in self._assigned]
        try:
            if mine:
                self._consumer.commit(offsets=mine, asynchronous=False)
        except KafkaException as failure:
            error = failure.args[0]
            if hopeless(error):
                raise FleetcastError(f"cannot commit: {error.str()}") from None
            log.warning("offsets were not committed; trying again", error=error.str())
            return False
        return True

    def close(self) -> None:
        """Leave the group at once."""
        self._consumer.close()
        self._joined("")

    def _consume(self, limit: int, timeout_s: float) -> list[Message]:
        """Wait for the first message, then take what is there; ``consume`` alone would wait for ``limit`` of them.

        Raises:
            BaseException: what a callback raised.
        """
        first = self._consumer.poll(timeout_s)
        found = [] if first is None else [first]
        while found and len(found) < limit:
            more = self._consumer.consume(min(_AT_ONCE, limit - len(found)), 0)
            found += more
            if len(more) < _AT_ONCE:
                break
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        return found

    def _fetch(self, wanted: set[int]) -> None:
        """Pause and resume so that librdkafka fetches these partitions and no others."""
        wanted &= self._assigned
        known = self._fetching - self._unknown
        if stop := (self._fetching | self._unknown) - wanted:
            self._consumer.pause([TopicPartition(self._topic, p) for p in stop])
        if go := wanted - known:
            self._consumer.resume([TopicPartition(self._topic, p) for p in go])
        self._fetching, self._unknown = wanted, set()

    def _events(self, messages: list[Message]) -> list[Message]:
        """Those that are events; the others say something of their partition, or of the client."""
        failed = [error is not None for error in [m.error() for m in messages]]
        if not any(failed):
            for partition in {m.partition() for m in messages}:
                self._at_end.pop(int(partition or 0), None)
            return messages
        return [m for m in messages if self._is_event(m)]

    def _is_event(self, message: Message) -> bool:
        error, partition = message.error(), int(message.partition() or 0)
        if error is None:
            self._at_end.pop(partition, None)
            return True
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  its public name in librdkafka's bindings
            if partition not in self._held:
                self._at_end[partition] = int(message.offset() or 0)
        elif hopeless(error):
            raise FleetcastError(f"cannot read {self._topic}: {error.str()}")
        else:
            log.warning("the broker reports an error and is asked again", error=error.str())
        return False

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.joined = True
        self._joined(self._consumer.memberid() or "")
        for p in partitions:
            self._assigned.add(p.partition)
            self._unknown.add(p.partition)
            self.hold(p.partition)
            self._added(p.partition)
        log.info("partitions assigned", partitions=[p.partition for p in partitions])

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = [p.partition for p in partitions]
        self._tell_removed(gone)
        self._forget(gone)
        log.info("partitions given away", partitions=gone)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = [p.partition for p in partitions]
        self._forget(gone)  # first: nothing of a lost partition may be committed
        self._tell_removed(gone)
        log.warning("partitions lost", partitions=gone)

    def _tell_removed(self, partitions: list[int]) -> None:
        try:
            self._removed(partitions)
        except BaseException as error:  # noqa: BLE001  raised again by ``_consume``
            self._raised = error

    def _forget(self, partitions: list[int]) -> None:
        for sets in (self._assigned, self._held, self._paused, self._fetching, self._unknown):
            sets.difference_update(partitions)
        for partition in partitions:
            self._at_end.pop(partition, None)
        self._stash = [m for m in self._stash if m.partition() not in partitions]


def _records(messages: list[Message]) -> Records:
    """Messages of one partition that hold no error."""
    return Records(
        offset=np.array([m.offset() for m in messages], np.int64),
        timestamp_ms=np.array([m.timestamp()[1] for m in messages], np.int64),
        values=[_bytes(m.value()) for m in messages],
        originals=messages,
        whole=_incoming,
    )


def _incoming(message: Message) -> Incoming:
    """A message that holds no error, whole."""
    key, value = message.key(), message.value()
    headers = [(header[0], _bytes(header[1])) for header in message.headers() or []]
    return Incoming(int(message.offset() or 0), message.timestamp()[1], _bytes(key), _bytes(value), headers)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
