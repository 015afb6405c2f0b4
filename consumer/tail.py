"""Decoded records of any topic, with the registry alone: what any subscriber could do."""

import datetime as dt
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fastavro
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.codec import DecodeError, read_value, split
from schemas.errors import FleetcastError, UnreachableError
from schemas.registry import Registry

log = structlog.get_logger(__name__)
_TELL_SECONDS = 30.0
_BYTES = 32  # shown in a line for people
_HOPELESS = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION, KafkaError._FATAL,  # noqa: SLF001  their public names in librdkafka's bindings
)  # fmt: skip
_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 12


def records(
    kafka: dict[str, Any],
    registry: Registry,
    topic: str,
    stop: threading.Event,
    *,
    from_beginning: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[dict[str, Any]]:
    """Records as they come, from all partitions, without a group and without committing anything.

    Args:
        kafka: librdkafka properties.
        registry: gives the schemas.
        topic: any topic in Confluent's wire format.
        stop: ends it.
        from_beginning: also what is there already.
        clock: for how often trouble is told.

    Yields:
        Records as Python values; what is no record as ``{"value": ...}``, what cannot be decoded as
        ``{"undecodable": reason, "bytes": ...}``.

    Raises:
        UnreachableError: no broker or registry answers.
        FleetcastError: there is no such topic, or we may not read it.
    """
    consumer = Consumer(
        {"fetch.wait.max.ms": 50, "isolation.level": "read_committed", **kafka, "group.id": "fleetcast-tail",
         "group.protocol": "classic", "enable.auto.commit": False}
    )  # fmt: skip
    parsed: dict[int, Any] = {}
    trouble = _Trouble(topic, clock)
    try:
        start = -2 if from_beginning else -1  # OFFSET_BEGINNING, OFFSET_END
        consumer.assign([TopicPartition(topic, p, start) for p in _partitions(consumer, topic)])
        while not stop.is_set():
            for message in consumer.consume(100, 0.1):
                error = message.error()
                if error is not None:
                    trouble.tell(error)
                else:
                    yield _decode(message.value(), registry, parsed)
    finally:
        consumer.close()


class _Trouble:
    """Errors between records: those that no waiting mends end the tail, the others are told once in a while."""

    def __init__(self, topic: str, clock: Callable[[], float]) -> None:
        """Nothing was told yet."""
        self._topic, self._clock = topic, clock
        self._told_at: float | None = None

    def tell(self, error: KafkaError) -> None:
        """Raise or log.

        Raises:
            FleetcastError: the topic has gone, or we may not read it.
        """
        if error.fatal() or error.code() in _HOPELESS:
            raise FleetcastError(f"topic {self._topic} cannot be read: {error.str()}")
        now = self._clock()
        if self._told_at is None or now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            log.warning("reading is disturbed; retrying", topic=self._topic, reason=error.str())


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    try:
        found = consumer.list_topics(topic, timeout=10).topics[topic]
    except KafkaException as error:
        raise UnreachableError(f"no Kafka broker answers: {error.args[0].str()}") from None
    if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise FleetcastError(f"topic {topic} cannot be read: {found.error.str()}")
    if found.error is not None or not found.partitions:
        raise FleetcastError(f"there is no topic {topic}: run `fleetcast topics create`")
    return sorted(found.partitions)


def _decode(message: bytes | str | None, registry: Registry, parsed: dict[int, Any]) -> dict[str, Any]:
    """The record; a value that is none is wrapped, as ``value``, or with the reason as ``undecodable``."""
    raw = message.encode() if isinstance(message, str) else message
    try:
        schema_id, body = split(raw)
        if schema_id not in parsed:
            parsed[schema_id] = _parse(schema_id, registry)
        value = read_value(body, parsed[schema_id])
    except DecodeError as error:
        return {"undecodable": str(error), "bytes": raw}
    return value if isinstance(value, dict) else {"value": value}


def _parse(schema_id: int, registry: Registry) -> Any:
    schema = registry.writer_schema(schema_id)
    if schema is None:
        raise DecodeError(f"schema id {schema_id} is not registered")
    try:
        return fastavro.parse_schema(schema)
    except Exception as error:  # fastavro's errors have no common base
        raise DecodeError(f"schema id {schema_id} cannot be read as Avro: {type(error).__name__}: {error}") from error


def as_json(record: dict[str, Any]) -> str:
    """One line of JSON: times are ISO, bytes are hexadecimal, NaN and infinities (which JSON lacks) are null."""
    return json.dumps(_plain(record), allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """``value`` in JSON's types."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dt.datetime):
        unit = "microseconds" if value.microsecond % 1000 else "milliseconds"
        return value.isoformat(timespec=unit).replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str | int) else str(value)


def as_line(record: dict[str, Any]) -> str:
    """One line for people: a forecast as medians with spark bars, other records as they are."""
    if not _is_forecast(record):
        return "  ".join(f"{k}={_short(v)}" for k, v in record.items() if v is not None)
    issued = record["issued_at"].strftime("%d %b %H:%M")
    return f"{issued}  {record['server_id']:<16}" + "  ".join(map(_target, record["targets"]))


def _is_forecast(record: dict[str, Any]) -> bool:
    """Whether it has a forecast's shape: any topic can be looked at, and anyone may name a field ``targets``."""
    match record:
        case {"server_id": str(), "issued_at": dt.datetime(), "targets": [*targets]}:
            return all(map(_is_target, targets))
    return False


def _is_target(target: object) -> bool:
    match target:
        case {"name": str(), "quantiles": [_, *_] as quantiles, "breach": None | {"probability": int() | float()}}:
            return all(map(_is_quantile, quantiles))
    return False


def _is_quantile(quantile: object) -> bool:
    match quantile:
        case {"level": float(), "values": [_, *_] as values}:
            return all(isinstance(v, float) for v in values)
    return False


def _target(target: dict[str, Any]) -> str:
    """Median now, its course between the 80 % interval's extremes, median and interval at the end."""
    low, median, high = (_nearest(target, level) for level in (0.1, 0.5, 0.9))
    breach = target["breach"]
    risk = f" !{breach['probability']:.0%}" if breach and breach["probability"] >= 0.5 else ""
    name = target["name"].removesuffix(f"_{target.get('unit')}")
    bars = spark(median, [*low, *high])
    return f"{name} {median[0]:.1f}{bars}{median[-1]:.1f} [{low[-1]:.0f}..{high[-1]:.0f}]{risk}"


def _nearest(target: dict[str, Any], level: float) -> list[float]:
    values: list[float] = min(target["quantiles"], key=lambda q: abs(q["level"] - level))["values"]
    return values


def spark(values: list[float], scale: list[float]) -> str:
    """Bars of at most ``_SPARKS`` steps, evenly spread, between the extremes of ``scale``; no bar for NaN."""
    step = max(1, len(values) // _SPARKS)
    finite = [v for v in scale if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high - low or 1
    return "".join(_bar((v - low) / span) if math.isfinite(v) else " " for v in values[::step])


def _bar(height: float) -> str:
    return _BARS[round(min(max(height, 0), 1) * (len(_BARS) - 1))]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return value[:_BYTES].hex() + ("..." if len(value) > _BYTES else "")
    return str(_plain(value))
