"""The one consumer of the service: records by partition, and which partitions are at their end."""

import logging
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from consumer.messages import Incoming
from schemas.errors import FleetcastError

log = structlog.get_logger(__name__)
LIBRDKAFKA = logging.getLogger("librdkafka")
_DEFAULTS: dict[str, Any] = {
    "group.protocol": "consumer",  # KIP-848
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 50,
    "queued.max.messages.kbytes": 65_536,
}


class Inbox:
    """Reads the input topic as a member of the group."""

    def __init__(
        self,
        config: dict[str, Any],
        group_id: str,
        topic: str,
        added: Callable[[int], None],
        removed: Callable[[int], None],
    ) -> None:
        """Subscribe. ``removed`` is called before a partition is given away, or after it was lost."""
        self._topic, self._added, self._removed = topic, added, removed
        self._at_end: dict[int, int] = {}  # offset of the end, by partition that was read to it
        self._assigned: set[int] = set()
        self._paused: set[int] = set()
        self._all_paused = False
        self.joined = False
        self._consumer = Consumer({**_DEFAULTS, **config, "group.id": group_id}, logger=LIBRDKAFKA)
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

    def keep_alive(self) -> None:
        """Stay a member of the group while nothing can be processed: poll without reading."""
        self._all_paused = True
        self._consumer.pause([TopicPartition(self._topic, p) for p in self._assigned])
        for message in self._consumer.consume(1, 0):
            partition = message.partition()
            if partition is not None and not self._is_event(message, partition):
                self.rewind(partition, int(message.offset() or 0))  # fetched before the pause: read again later

    def poll(self, limit: int, timeout_s: float) -> dict[int, list[Incoming]]:
        """Up to ``limit`` records by partition.

        Raises:
            FleetcastError: the broker reports an error that does not heal by itself.
        """
        if self._all_paused:
            self._all_paused = False
            self._consumer.resume([TopicPartition(self._topic, p) for p in self._assigned - self._paused])
        batches: dict[int, list[Incoming]] = {}
        for message in self._consumer.consume(limit, timeout_s):
            partition = message.partition()
            if partition is None or self._is_event(message, partition):
                continue
            self._at_end.pop(partition, None)
            batches.setdefault(partition, []).append(incoming(message))
        # A partition may have been given away by a callback inside consume().
        return {p: records for p, records in batches.items() if p in self._assigned}

    def rewind(self, partition: int, offset: int) -> None:
        """Read again from ``offset``."""
        self._consumer.seek(TopicPartition(self._topic, partition, offset))

    def pause(self, partition: int) -> None:
        """Fetch nothing of a partition for now."""
        self._paused.add(partition)
        self._consumer.pause([TopicPartition(self._topic, partition)])

    def resume(self, partition: int) -> None:
        """Fetch it again."""
        self._paused.discard(partition)
        if partition in self._assigned:
            self._consumer.resume([TopicPartition(self._topic, partition)])

    def commit(self, offsets: dict[int, int]) -> bool:
        """Commit the next offsets to read, of partitions that are still ours; False where it must be tried again.

        Raises:
            FleetcastError: the client can do no more.
        """
        mine = [TopicPartition(self._topic, p, offset) for p, offset in offsets.items() if p in self._assigned]
        try:
            if mine:
                self._consumer.commit(offsets=mine, asynchronous=False)
        except KafkaException as failure:
            error = failure.args[0]
            if error.fatal():
                raise FleetcastError(f"cannot commit: {error.str()}") from None
            log.warning("offsets were not committed; trying again", error=error.str())
            return False
        return True

    def close(self) -> None:
        """Leave the group at once."""
        self._consumer.close()

    def _is_event(self, message: Message, partition: int) -> bool:
        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  its public name in librdkafka's bindings
            self._at_end[partition] = int(message.offset() or 0)
        elif error.fatal() or error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART):
            raise FleetcastError(f"cannot read {self._topic}: {error.str()}")
        else:
            log.warning("the broker reports an error and is asked again", error=error.str())
        return True

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.joined = True
        for p in partitions:
            self._assigned.add(p.partition)
            self._added(p.partition)
        log.info("partitions assigned", partitions=[p.partition for p in partitions])

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            self._removed(p.partition)
            self._forget(p.partition)
        log.info("partitions given away", partitions=[p.partition for p in partitions])

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            self._forget(p.partition)  # first: nothing of a lost partition may be committed
            self._removed(p.partition)
        log.warning("partitions lost", partitions=[p.partition for p in partitions])

    def _forget(self, partition: int) -> None:
        self._assigned.discard(partition)
        self._paused.discard(partition)
        self._at_end.pop(partition, None)


def incoming(message: Message) -> Incoming:
    """A message that holds no error, narrowed once."""
    key, value = message.key(), message.value()
    headers = [(header[0], _bytes(header[1])) for header in message.headers() or []]
    return Incoming(int(message.offset() or 0), message.timestamp()[1], _bytes(key), _bytes(value), headers)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
