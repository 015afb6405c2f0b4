"""Decoded records of any topic, with the registry alone: what any subscriber could do."""

import datetime as dt
import json
import threading
from collections.abc import Iterator
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.codec import DecodeError, read_value, split
from schemas.errors import FleetcastError, UnreachableError
from schemas.registry import Registry

_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 12


def records(
    kafka: dict[str, Any], registry: Registry, topic: str, stop: threading.Event, *, from_beginning: bool
) -> Iterator[dict[str, Any]]:
    """Records as they come, from all partitions, without a group and without committing anything.

    Args:
        kafka: librdkafka properties.
        registry: gives the schemas.
        topic: any topic in Confluent's wire format.
        stop: ends it.
        from_beginning: also what is there already.

    Raises:
        UnreachableError: no broker or registry answers.
        FleetcastError: there is no such topic.
    """
    consumer = Consumer(
        {"fetch.wait.max.ms": 50, "isolation.level": "read_committed", **kafka, "group.id": "fleetcast-tail",
         "group.protocol": "classic", "enable.auto.commit": False}
    )  # fmt: skip
    parsed: dict[int, Any] = {}
    try:
        start = -2 if from_beginning else -1  # OFFSET_BEGINNING, OFFSET_END
        consumer.assign([TopicPartition(topic, p, start) for p in _partitions(consumer, topic)])
        while not stop.is_set():
            for message in consumer.consume(100, 0.2):
                if message.error() is not None:
                    continue  # librdkafka retries by itself; a tail has nothing to lose
                yield _decode(message.value(), registry, parsed)
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    try:
        found = consumer.list_topics(topic, timeout=10).topics[topic]
    except KafkaException as error:
        raise UnreachableError(f"no Kafka broker answers: {error.args[0].str()}") from None
    if found.error is not None or not found.partitions:
        raise FleetcastError(f"there is no topic {topic}: run `fleetcast topics create`")
    return sorted(found.partitions)


def _decode(message: bytes | str | None, registry: Registry, parsed: dict[int, Any]) -> dict[str, Any]:
    try:
        schema_id, body = split(message.encode() if isinstance(message, str) else message)
        if schema_id not in parsed:
            schema = registry.writer_schema(schema_id)
            if schema is None:
                return {"undecodable": f"schema id {schema_id} is not registered"}
            parsed[schema_id] = fastavro.parse_schema(schema)
        value: dict[str, Any] = read_value(body, parsed[schema_id])
    except DecodeError as error:
        return {"undecodable": str(error)}
    return value


def as_json(record: dict[str, Any]) -> str:
    """One line of JSON; times are ISO."""
    return json.dumps(record, default=_plain, ensure_ascii=False)


def _plain(value: object) -> str:
    if isinstance(value, dt.datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.hex() if isinstance(value, bytes) else str(value)


def as_line(record: dict[str, Any]) -> str:
    """One line for people: a forecast as medians with spark bars, other records as they are."""
    if "targets" not in record or "issued_at" not in record:
        return "  ".join(f"{k}={_short(v)}" for k, v in record.items() if v is not None)
    issued = record["issued_at"].strftime("%d %b %H:%M")
    return f"{issued}  {record['server_id']:<16}" + "  ".join(map(_target, record["targets"]))


def _target(target: dict[str, Any]) -> str:
    median = min(target["quantiles"], key=lambda q: abs(q["level"] - 0.5))["values"]
    breach = target["breach"]
    risk = f" !{breach['probability']:.0%}" if breach and breach["probability"] >= 0.5 else ""
    return f"{target['name']} {median[0]:.1f}{spark(median)}{median[-1]:.1f}{risk}"


def spark(values: list[float]) -> str:
    """Bars of at most ``_SPARKS`` steps, evenly spread, between the smallest and the largest value."""
    step = max(1, len(values) // _SPARKS)
    shown = values[::step]
    low, high = min(shown), max(shown)
    span = high - low or 1
    return "".join(_BARS[round((v - low) / span * (len(_BARS) - 1))] for v in shown)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return _plain(value) if isinstance(value, dt.datetime) else str(value)
