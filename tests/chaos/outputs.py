"""The topics' records as tables, as any subscriber sees them under read_committed."""

import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.codec import plain_schema, read_value, split
from schemas.contract import Contract
from schemas.records import forecast_schema, step_schema
from schemas.topics import Topics
from tests.chaos.compare import Record, Table

Kafka = dict[str, Any]
_READ_SECONDS = 60  # without any record
_STABLE_SECONDS = 180  # a dead member's transaction is open until its timeout (a minute by default)
_END = KafkaError._PARTITION_EOF  # its public name in librdkafka's bindings


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one group published."""

    steps: Table
    forecasts: Table
    dlq: Table


def read_outputs(kafka: Kafka, topics: Topics, contract: Contract) -> Outputs:
    """Everything that is committed, decoded with fastavro into compact tables."""
    steps, forecasts = (fastavro.parse_schema(plain_schema(s)) for s in (step_schema(contract), forecast_schema()))
    return Outputs(
        steps=Table.of(step_of(m.partition(), decode(m, steps)) for m in messages(kafka, topics.steps)),
        forecasts=Table.of(forecast_of(decode(m, forecasts)) for m in messages(kafka, topics.forecasts)),
        dlq=Table.of(letter_of(m.headers(), m.key(), m.value()) for m in messages(kafka, topics.dlq)),
    )


def decode(message: Message, schema: Any) -> dict[str, Any]:
    """The Avro record; the schema is the one that the topic was registered with."""
    value = message.value()
    assert isinstance(value, bytes)
    found: dict[str, Any] = read_value(split(value)[1], schema)
    return found


def step_of(partition: int | None, step: dict[str, Any]) -> Record:
    """A step is the mean of its events, wherever the batches were cut: every bit of it must be equal."""
    rest = (_frozen(value) for name, value in step.items() if name not in ("server_id", "step_start"))
    return Record((step["server_id"], step["step_start"]), (partition, *rest))


def forecast_of(forecast: dict[str, Any]) -> Record:
    """Counts, lineage and source must be equal; what the network computed may differ in rounding."""
    exact: list[Hashable] = [
        forecast[name]
        for name in (
            "step_seconds", "horizon_steps", "model_version", "contract_fingerprint", "encoder_steps", "held_steps",
        )
    ]  # fmt: skip
    exact += forecast["source"].values()
    numbers: list[float] = []
    for target in forecast["targets"]:
        breach = dict(target["breach"] or {})
        numbers.append(breach.pop("probability", 0.0))
        exact += [target["name"], target["unit"], *breach.values(), *(q["level"] for q in target["quantiles"])]
        numbers += chain.from_iterable(q["values"] for q in target["quantiles"])
    return Record((forecast["server_id"], forecast["issued_at"]), tuple(exact), tuple(numbers))


def letter_of(headers: Any, key: Any, value: Any) -> Record:
    """A refused record is named by where it lay; its stage and bytes must be equal."""
    why = dict(headers or [])
    source = tuple(int(why[f"__connect.errors.{name}"]) for name in ("partition", "offset"))
    return Record(source, (why["__connect.errors.stage"].decode(), key, value))


def _frozen(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def messages(kafka: Kafka, topic: str, isolation: str = "read_committed") -> Iterator[Message]:
    """Every message up to the end of each partition."""
    consumer = _reader(kafka, isolation)
    left = set(partitions(consumer, topic))
    consumer.assign([TopicPartition(topic, p, 0) for p in left])
    deadline = time.monotonic() + _READ_SECONDS
    while left:
        assert time.monotonic() < deadline, f"partitions {left} of {topic} did not end within {_READ_SECONDS} s"
        message = consumer.poll(0.5)  # not consume(): after assign() it was seen to wait for ever
        if message is None:
            continue
        error = message.error()
        if error is None:
            yield message
            deadline = time.monotonic() + _READ_SECONDS
        else:
            assert error.code() == _END, error
            left.discard(message.partition() or 0)
    consumer.close()


def count(kafka: Kafka, topics: Topics, isolation: str) -> int:
    """Records of the three output topics; the uncommitted ones beyond the committed lay in aborted transactions."""
    return sum(1 for topic in _outputs(topics) for _ in messages(kafka, topic, isolation))


def wait_until_stable(kafka: Kafka, topics: Topics) -> float:
    """Wait until no transaction is open in the output topics; returns the seconds that it took.

    A member that was killed leaves its transaction open, and whoever reads committed records only sees nothing behind
    it. What is hidden there is late, not lost: the comparison must not begin before.
    """
    began = time.monotonic()
    readers = [_reader(kafka, isolation) for isolation in ("read_committed", "read_uncommitted")]
    try:
        for topic in _outputs(topics):
            for number in partitions(readers[0], topic):
                while len({_end(reader, topic, number) for reader in readers}) > 1:
                    waited = time.monotonic() - began
                    assert waited < _STABLE_SECONDS, f"a transaction is open in {topic} [{number}] after {waited:.0f} s"
                    time.sleep(0.2)
    finally:
        for reader in readers:
            reader.close()
    return time.monotonic() - began


def partitions(consumer: Consumer, topic: str) -> list[int]:
    """The topic's partitions."""
    return sorted(consumer.list_topics(topic, timeout=10).topics[topic].partitions)


def _outputs(topics: Topics) -> tuple[str, str, str]:
    return topics.steps, topics.forecasts, topics.dlq


def _end(reader: Consumer, topic: str, partition: int) -> int:
    """The last stable offset for a reader of committed records, else the high watermark; -1 while nobody answers."""
    try:
        return int(reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1])
    except KafkaException:
        return -1


def _reader(kafka: Kafka, isolation: str) -> Consumer:
    settings = {"group.id": "chaos-reader", "isolation.level": isolation, "enable.partition.eof": True}
    return Consumer({**kafka, **settings, "enable.auto.commit": False})
