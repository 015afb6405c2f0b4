"""The one producer of the service: idempotent, backpressured, and loud when a record could not be delivered."""

from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from consumer.inbox import LIBRDKAFKA
from consumer.messages import Outgoing
from schemas.errors import FleetcastError, UnreachableError
from schemas.topics import DLQ_HEADROOM_BYTES, MAX_MESSAGE_BYTES

_WAIT_SECONDS = 0.5
_DEFAULTS: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "zstd",
    "compression.level": 1,  # of floats the default, 3, makes no less, and takes twice as long
    "linger.ms": 5,
    "partitioner": "murmur2_random",  # where a Java client would put the key
    "queue.buffering.max.kbytes": 131_072,
    # A refused record of the input's largest size goes to the DLQ with headers that say why.
    "message.max.bytes": MAX_MESSAGE_BYTES + DLQ_HEADROOM_BYTES,
}
# What no second attempt would deliver; everything else is tried again.
_HOPELESS = (
    KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.INVALID_RECORD, KafkaError.UNSUPPORTED_VERSION, KafkaError.INVALID_TRANSACTION_TIMEOUT,
)  # fmt: skip


class GivenUpError(Exception):
    """The broker takes nothing, and the time to wait for it is over."""


class Outbox:
    """Publishes records, and knows where the steps arrived.

    Attributes:
        producer: librdkafka's.
        failed: records of this round that were not delivered.
    """

    def __init__(self, config: dict[str, Any], steps_topic: str, while_waiting: Callable[[], None]) -> None:
        """``config``: librdkafka properties; they override the defaults.

        ``while_waiting`` is called about twice a second while the broker takes nothing; it may raise.
        """
        self._while_waiting, self._steps_topic = while_waiting, steps_topic
        self.producer = Producer({**_DEFAULTS, **config}, logger=LIBRDKAFKA)
        self.failed: list[KafkaError] = []
        self._step_ends: dict[int, int] = {}

    def publish(self, records: Iterable[Outgoing]) -> None:
        """Queue records in order, waiting while the queue is full."""
        for record in records:
            self._produce(record)

    def flush(self) -> dict[int, int]:
        """Wait until nothing is in flight; returns by partition the end offset of the steps that arrived.

        Raises:
            FleetcastError: a record was refused for good (too large, say): the service must stop, not skip it.
        """
        while self.producer.flush(_WAIT_SECONDS):
            self._while_waiting()
        for error in self.failed:
            if error.code() in _HOPELESS:
                raise FleetcastError(f"{len(self.failed)} records could not be delivered, the first: {error.str()}")
        return self._step_ends

    def begin(self) -> None:
        """A new round: what failed before counts no more."""
        self.failed, self._step_ends = [], {}

    def close(self) -> None:
        """Drop what is not delivered; ``flush`` first to keep it."""
        self.producer.purge()
        self.producer.close()

    def _produce(self, record: Outgoing) -> None:
        partition = -1 if record.partition is None else record.partition  # -1: by the key
        while True:
            try:
                self.producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=partition,
                    headers=list(record.headers),
                    on_delivery=self._delivered,
                )
            except BufferError:  # the queue is full: let deliveries make room
                if not self.producer.poll(_WAIT_SECONDS):
                    self._while_waiting()
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed.append(error)
        elif message.topic() == self._steps_topic:
            partition, offset = int(message.partition() or 0), int(message.offset() or 0)
            self._step_ends[partition] = max(self._step_ends.get(partition, 0), offset + 1)


def cannot_publish(error: KafkaError) -> FleetcastError:
    """What to raise for an error that stops the service."""
    kind = UnreachableError if error.retriable() else FleetcastError
    return kind(f"cannot publish: {error.str()}")


def hopeless(error: KafkaError) -> bool:
    """Whether no second attempt would help."""
    return error.code() in _HOPELESS
