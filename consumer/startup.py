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
from consumer.encoding import ForecastEncoder, StepEncoder
from models.artifact import Model
from schemas.codec import EventCodec
from schemas.contract import Contract
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


def check_topics(kafka: dict[str, Any], topics: Topics, contract: Contract) -> None:
    """See that the topics exist and fit each other, and that the steps are kept for as long as a window.

    Raises:
        MismatchError: a topic is missing, the steps' partitions are not those of the input, or they are compacted.
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
    _warn_of_create_time(topics.metrics, _settings(admin, topics.metrics))
    _check_steps(topics.steps, _settings(admin, topics.steps), contract)


def _settings(admin: AdminClient, topic: str) -> dict[str, str] | None:
    """The topic's settings; None on a broker that answers no such question, as the embedded one."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        found = admin.describe_configs([resource], request_timeout=5)[resource].result(6)
    except (KafkaException, TimeoutError):
        log.warning("cannot read the topic's settings; taking them to be right", topic=topic)
        return None
    return {name: str(entry.value) for name, entry in found.items()}


def _warn_of_create_time(topic: str, settings: dict[str, str] | None) -> None:
    """Event time is judged against the record's timestamp; a producer's own clock would make that rule toothless."""
    kind = (settings or {}).get("message.timestamp.type", "LogAppendTime")
    if kind != "LogAppendTime":
        log.warning(
            "the input's timestamps are the producers': a wrong clock can close steps early; "
            "set message.timestamp.type=LogAppendTime",
            topic=topic, timestamp_type=kind,
        )  # fmt: skip


def _check_steps(topic: str, settings: dict[str, str] | None, contract: Contract) -> None:
    if settings is None:
        return
    if settings.get("cleanup.policy", "delete") != "delete":
        raise MismatchError(
            f"{topic} has cleanup.policy={settings['cleanup.policy']}: windows are restored from all of its steps; "
            "set cleanup.policy=delete"
        )
    kept, needed = int(settings.get("retention.ms", -1)), window_ms(contract)
    if 0 <= kept < needed:
        log.warning(
            "the steps are kept for less time than a window spans: after a restart windows would be shorter; "
            "set retention.ms to what is needed, or more",
            topic=topic, retention_ms=kept, needed_ms=needed,
        )  # fmt: skip
    if (size := int(settings.get("retention.bytes", -1))) >= 0:
        log.warning("the steps are kept up to a size: see that a window of all servers fits", retention_bytes=size)


def window_ms(contract: Contract) -> int:
    """How long a step is needed to restore a window: the window, its season, and the gap that it survives."""
    settings = contract.settings
    season = settings.season_steps if "season_lag" in settings.known else 0
    return (settings.encoder_steps + season + settings.max_gap_steps + 2) * contract.step_ms


def codecs(model: Model, registry: Registry, topics: Topics) -> Codecs:
    """Codecs under the ids that the registry holds; nothing is registered from here.

    Raises:
        MismatchError: a schema is not registered.
        UnreachableError: no registry answers.
    """
    contract = model.contract
    registry.schema_id(topics.metrics, contract.schema)
    step_id = registry.schema_id(topics.steps, step_schema(contract))
    forecast_id = registry.schema_id(topics.forecasts, forecast_schema())
    return Codecs(
        events=EventCodec(contract, registry),
        steps=StepEncoder(contract, step_id, model.fingerprint),
        forecasts=ForecastEncoder(contract, forecast_id, model.version, model.fingerprint),
    )
