"""What must be there before the service starts, and what is said where it is not."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from consumer.core import Codecs
from models.artifact import Model
from schemas.codec import EventCodec, RecordCodec
from schemas.errors import MismatchError, UnreachableError
from schemas.records import forecast_schema, step_schema
from schemas.registry import Registry
from schemas.topics import Topics, connect, partition_counts

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Patience:
    """How long a start waits for a broker and a registry that are not there yet: both together."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        """The time counts from now; ``stop`` ends it at once."""
        self._deadline, self._stop = time.monotonic() + seconds, stop

    def __call__(self, attempt: Callable[[], T]) -> T:
        """Repeat ``attempt`` while something is out of reach.

        Raises:
            UnreachableError: the last one, when the time is over or the start was given up.
        """
        while True:
            try:
                return attempt()
            except UnreachableError as error:
                if self._stop.is_set() or time.monotonic() >= self._deadline:
                    raise
                log.warning("waiting", reason=str(error))
                self._stop.wait(1)


def check_topics(kafka: dict[str, Any], topics: Topics) -> None:
    """See that the topics exist and fit each other.

    Raises:
        MismatchError: a topic is missing, or the steps' partitions are not those of the input.
        UnreachableError: no broker answers.
    """
    admin = connect(kafka, timeout_s=5)
    names = [topics.metrics, topics.steps, topics.forecasts, topics.dlq]
    counts = partition_counts(admin, names)
    if missing := [name for name in names if name not in counts]:
        raise MismatchError(f"topics are missing: {', '.join(missing)}. Run `fleetcast topics create`")
    if counts[topics.steps] != counts[topics.metrics]:
        raise MismatchError(
            f"{topics.steps} has {counts[topics.steps]} partitions, {topics.metrics} has {counts[topics.metrics]}: "
            "they must be equal, since each step lies in the partition of its events"
        )
    _warn_of_create_time(admin, topics.metrics)


def _warn_of_create_time(admin: AdminClient, topic: str) -> None:
    """Event time is judged against the record's timestamp; a producer's own clock would make that rule toothless."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        settings = admin.describe_configs([resource], request_timeout=5)[resource].result(6)
    except (KafkaException, TimeoutError):  # the embedded broker answers no such question
        log.warning("cannot read the topic's settings; assuming LogAppendTime", topic=topic)
        return
    kind = settings["message.timestamp.type"].value
    if kind != "LogAppendTime":
        log.warning(
            "the input's timestamps are the producers': a wrong clock can close steps early; "
            "set message.timestamp.type=LogAppendTime",
            topic=topic, timestamp_type=kind,
        )  # fmt: skip


def codecs(model: Model, registry: Registry, topics: Topics) -> Codecs:
    """Codecs under the ids that the registry holds; nothing is registered from here.

    Raises:
        MismatchError: a schema is not registered.
        UnreachableError: no registry answers.
    """
    contract = model.contract
    registry.schema_id(topics.metrics, contract.schema)
    steps, forecasts = step_schema(contract), forecast_schema()
    return Codecs(
        events=EventCodec(contract, registry),
        steps=RecordCodec(steps, registry.schema_id(topics.steps, steps)),
        forecasts=RecordCodec(forecasts, registry.schema_id(topics.forecasts, forecasts)),
    )
