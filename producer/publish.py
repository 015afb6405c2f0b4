"""Events to Kafka: one idempotent publisher for the simulator and the replay."""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.batch import EventBatch
from schemas.codec import EventCodec
from schemas.errors import FleetcastError, InputError, UnreachableError

# https://github.com/confluentinc/librdkafka/blob/v2.16.0/CONFIGURATION.md
_SETTINGS: dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "compression.type": "zstd",
    "linger.ms": 20,
    # Java's default hash: a key lies where a Java producer would put it.
    "partitioner": "murmur2_random",
    # A call into Python for each delivered event would cost more than sending it; failures alone are told.
    "delivery.report.only.error": True,
    # The client's own lines on stderr; what matters comes through error_cb.
    "log_level": 2,
}
_RETRY_S, _CREATION_S, _QUIET_S = 0.01, 0.2, 30.0
_E = KafkaError
# librdkafka names its own errors with an underscore; they are its public constants.
_NO_TOPIC = (_E.UNKNOWN_TOPIC_OR_PART, _E._UNKNOWN_TOPIC)  # noqa: SLF001  as said above
_NO_ANSWER = (_E._MSG_TIMED_OUT, _E._TRANSPORT, _E._ALL_BROKERS_DOWN, _E._TIMED_OUT)  # noqa: SLF001  as said above
_UNREACHABLE = (*_NO_ANSWER, _E.REQUEST_TIMED_OUT, _E.LEADER_NOT_AVAILABLE, _E.NOT_ENOUGH_REPLICAS)
_log = structlog.get_logger()


class Publisher:
    """Encodes events and produces them, keyed by server, each server's in order.

    Events carry no Kafka timestamp of their own: the topic is ``LogAppendTime``, event time is in the value.

    Attributes:
        published: events handed to the client so far; after `flush`, acknowledged.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        codec: EventCodec,
        schema_id: int,
        stop: threading.Event | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            config: librdkafka properties; they win over the publisher's own.
            topic: where to.
            codec: makes messages of events.
            schema_id: the registry's id of the contract's schema.
            stop: once set, a full queue is no longer waited for.

        Raises:
            InputError: a property that librdkafka refuses.
        """
        self._topic, self._codec, self._schema_id = topic, codec, schema_id
        self._servers = config.get("bootstrap.servers")
        self._stop = stop or threading.Event()
        self._failures: Counter[tuple[int, str]] = Counter()
        self._told: dict[int, float] = {}  # when each kind of trouble was last told
        self.published = 0
        try:
            self._producer = Producer({**_SETTINGS, "error_cb": self._on_error, **config})
        except KafkaException as error:
            raise InputError(f"Kafka property: {error.args[0].str()}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what is still queued: who wants it sent has called `flush`."""
        self._producer.purge()

    def connect(self, timeout_s: float = 10) -> None:
        """See the broker and the topic, so that neither is missed only after the first events.

        Raises:
            UnreachableError: no broker answers in time.
            FleetcastError: the topic is not there.
        """
        for _ in range(5):  # a broker that creates topics on first use needs a moment
            try:
                found = self._producer.list_topics(self._topic, timeout=timeout_s).topics[self._topic].error
            except KafkaException as error:
                raise UnreachableError(
                    f"no Kafka broker answers at {self._servers}: {error.args[0].str()}. "
                    "Is it up? (--bootstrap-servers, FLEETCAST_BOOTSTRAP_SERVERS)"
                ) from None
            if found is None:
                return
            self._stop.wait(_CREATION_S)
        raise FleetcastError(f"topic {self._topic} at {self._servers}: {found.str()} (`fleetcast topics create`)")

    def publish(self, batch: EventBatch) -> int:
        """Queue a batch, waiting while the queue is full.

        Returns:
            How many events of it were queued: all, unless ``stop`` was set while the queue was full.

        Raises:
            FleetcastError: events were refused by the broker (of this batch or an earlier one).
            UnreachableError: events could not be delivered in time.
        """
        # One at a time: produce_batch is no faster (measured), and where the queue fills up in the middle of a batch it
        # may take later messages of a server before earlier ones.
        queued, produce, topic, told = 0, self._producer.produce, self._topic, self._on_delivery
        keys = [key.encode() for key in batch.keys.tolist()]
        for key, value in zip(keys, self._codec.encode(batch, self._schema_id), strict=True):
            try:
                produce(topic, value, key, on_delivery=told)
            except BufferError:
                if not self._wait_for_room(key, value):
                    break
            except KafkaException as error:
                raise self._error(error.args[0], 1) from None
            queued += 1
        self.published += queued
        self._producer.poll(0)
        self._raise_failures()
        return queued

    def flush(self, timeout_s: float = 30) -> None:
        """Wait until everything is acknowledged.

        Raises:
            FleetcastError: events were refused by the broker.
            UnreachableError: events could not be delivered in time.
        """
        left = self._producer.flush(timeout_s)
        self._raise_failures()
        if left:
            raise UnreachableError(f"{left} events were not acknowledged by {self._servers} within {timeout_s:g} s")

    def _wait_for_room(self, key: bytes, value: bytes) -> bool:
        """Hand one message over when there is room; False where there is none and ``stop`` is set."""
        while True:
            self._producer.poll(_RETRY_S)
            self._raise_failures()
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._on_delivery)
            except BufferError:
                if self._stop.is_set():
                    return False
            except KafkaException as error:
                raise self._error(error.args[0], 1) from None
            else:
                return True

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failures[error.code(), error.str()] += 1

    def _on_error(self, error: KafkaError) -> None:
        """Trouble of the client as a whole. It tries again by itself, so it is told, each kind now and then."""
        now = time.monotonic()
        if now - self._told.get(error.code(), -_QUIET_S) >= _QUIET_S:
            self._told[error.code()] = now
            _log.warning("kafka", problem=error.str(), servers=self._servers)

    def _raise_failures(self) -> None:
        if not self._failures:
            return
        failed = self._failures.total()
        (code, reason), _ = self._failures.most_common(1)[0]
        self._failures.clear()
        raise self._error(KafkaError(code, reason), failed)

    def _error(self, error: KafkaError, count: int) -> FleetcastError:
        text = f"{count} events were not delivered to {self._topic} at {self._servers}: {error.str()}"
        if error.code() in _NO_TOPIC:
            return FleetcastError(f"{text}. Is the topic there? (`fleetcast topics create`)")
        return UnreachableError(text) if error.code() in _UNREACHABLE else FleetcastError(text)
