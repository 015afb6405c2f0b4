"""The one producer of the service: idempotent, backpressured, and loud when a record could not be delivered."""

from collections.abc import Callable, Iterable
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumer.inbox import LIBRDKAFKA
from consumer.messages import Outgoing
from schemas.errors import FleetcastError, UnreachableError
from schemas.topics import DLQ_HEADROOM_BYTES, MAX_MESSAGE_BYTES

log = structlog.get_logger(__name__)
_WAIT_SECONDS = 0.5
_DEFAULTS: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "zstd",
    "linger.ms": 5,
    "partitioner": "murmur2_random",  # where a Java client would put the key
    # A broker that is away is waited for: records stay queued rather than fail (retries are endless by default).
    "delivery.timeout.ms": 2_147_483_647,
    "queue.buffering.max.kbytes": 131_072,
    # A refused record of the input's largest size goes to the DLQ with headers that say why.
    "message.max.bytes": MAX_MESSAGE_BYTES + DLQ_HEADROOM_BYTES,
}


class GivenUpError(Exception):
    """The broker takes nothing, and the time to wait for it is over."""


class Outbox:
    """Publishes records; ``flush`` returns only when every one of them is on the broker."""

    def __init__(self, config: dict[str, Any], while_waiting: Callable[[], None]) -> None:
        """``config``: librdkafka properties; they override the defaults.

        ``while_waiting`` is called about twice a second while the broker takes nothing; it may raise GivenUpError.
        """
        self._while_waiting = while_waiting
        self._producer = Producer({**_DEFAULTS, **config}, logger=LIBRDKAFKA)
        self._failed: list[str] = []

    def publish(self, records: Iterable[Outgoing]) -> int:
        """Queue records in order, waiting while the queue is full; returns how many."""
        count = 0
        for record in records:
            self._produce(record)
            count += 1
        self._producer.poll(0)
        return count

    def flush(self) -> None:
        """Wait until all is delivered.

        Raises:
            FleetcastError: a record was refused for good (too large, say): the service must stop, not skip it.
            GivenUpError: ``while_waiting`` said so.
        """
        while self._producer.flush(_WAIT_SECONDS):
            self._while_waiting()
        if self._failed:
            raise FleetcastError(f"{len(self._failed)} records could not be delivered, the first: {self._failed[0]}")

    def close(self) -> None:
        """Drop what is not delivered; ``flush`` first to keep it."""
        self._producer.purge()
        self._producer.close()

    def _produce(self, record: Outgoing) -> None:
        partition = -1 if record.partition is None else record.partition  # -1: by the key
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=partition,
                    headers=list(record.headers),
                    on_delivery=self._delivered,
                )
            except BufferError:  # the queue is full: let deliveries make room
                if not self._producer.poll(_WAIT_SECONDS):
                    self._while_waiting()
            except KafkaException as error:
                raise _fatal(error.args[0], record.topic) from None
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(f"{message.topic()}: {error.str()}")


def _fatal(error: KafkaError, topic: str) -> FleetcastError:
    kind = UnreachableError if error.retriable() else FleetcastError
    return kind(f"cannot publish to {topic}: {error.str()}")
