"""Rows into Kafka as one writes it at first: a dictionary a row, fastavro's writer, ``produce()``."""

import io
from collections.abc import Callable
from typing import Any

import fastavro
from confluent_kafka import Producer

from schemas.batch import EventBatch
from schemas.codec import frame, plain_schema
from schemas.contract import Contract

_SETTINGS = {
    "acks": "all", "enable.idempotence": True, "compression.type": "zstd", "linger.ms": 20,
    "partitioner": "murmur2_random",
}  # fmt: skip
_ID = 1


def records(batch: EventBatch, contract: Contract) -> list[dict[str, Any]]:
    """The rows as dictionaries, by field name."""
    columns: dict[str, list[Any]] = {contract.key.name: batch.keys.tolist(), contract.time.name: batch.time.tolist()}
    for column, field in enumerate(contract.reals):
        values = batch.reals[:, column].tolist()
        columns[field.name] = [None if v != v else v for v in values]  # noqa: PLR0124  NaN
    for column, field in enumerate(contract.enums):
        columns[field.name] = [field.symbols[code] for code in batch.enums[:, column].tolist()]
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def loop(kafka: dict[str, Any], topic: str, contract: Contract, rows: list[dict[str, Any]]) -> Callable[[], None]:
    """What is timed: encode and produce each, then flush."""
    schema, header = fastavro.parse_schema(plain_schema(contract.schema)), frame(_ID)
    key = contract.key.name
    producer = Producer({**kafka, **_SETTINGS})

    def run() -> None:
        for row in rows:
            out = io.BytesIO()
            out.write(header)
            fastavro.schemaless_writer(out, schema, row)
            while True:
                try:
                    producer.produce(topic, out.getvalue(), row[key])
                except BufferError:
                    producer.poll(0.01)
                else:
                    break
            producer.poll(0)
        producer.flush(120)

    return run
