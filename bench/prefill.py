"""Steps as the service writes them, for many servers at once: windows that a start restores.

The bytes of one step of one server are fastavro's; the same record of another server differs in its id and its numbers,
which are put in their places. So millions of them are written in seconds, none like another.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any

import fastavro
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from bench.scene import Scene
from consumer.position import Position
from consumer.published import GROUP, SOURCE_OFFSET
from models.artifact import Model
from schemas.batch import Floats, Ints
from schemas.codec import frame, plain_schema
from schemas.contract import Contract
from schemas.errors import FleetcastError
from schemas.records import step_schema
from schemas.registry import Registry
from schemas.topics import Topics

_SETTINGS = {
    "acks": "all", "enable.idempotence": True, "compression.type": "zstd", "linger.ms": 20,
    "partitioner": "murmur2_random", "queue.buffering.max.messages": 1_000_000,
}  # fmt: skip
_NAME_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What was written.

    Attributes:
        last_step: of every server. values: [probes, steps, reals] of the first servers. records: how many steps.
    """

    last_step: int
    values: Floats
    records: int


def prefill(
    scene: Scene, model: Model, topics: Topics, *, names: NDArray[np.object_], length: Ints, last_step: int,
    probes: int = 1,
) -> Prefilled:  # fmt: skip
    """Write ``length`` [n] steps of the servers ``names`` [n], all up to ``last_step``; values kept of ``probes``."""
    template = _Template(scene.contract, model.fingerprint, _schema_id(scene, topics))
    producer = Producer({**scene.kafka, **_SETTINGS})
    ids = np.frombuffer("".join(names).encode(), np.uint8).reshape(len(names), _NAME_LENGTH)
    keys = [str(name).encode() for name in names]
    group = topics.steps.removesuffix(".steps").encode()
    headers: list[tuple[str, str | bytes | None]] = [(GROUP, group), (SOURCE_OFFSET, b"-1")]
    rng = np.random.default_rng(0)
    values = rng.uniform(20, 80, (len(names), len(scene.contract.reals)))
    kept, records, most = [], 0, int(length.max())
    for step in range(last_step - most + 1, last_step + 1):
        values = 50 + 0.97 * (values - 50) + rng.normal(0, 2, values.shape)
        values = np.clip(values, 0, 100)
        kept.append(values[:probes].copy())
        there = np.flatnonzero(length > last_step - step)
        messages = template.fill(step, ids[there], values[there])
        for row, message in zip(there.tolist(), messages, strict=True):
            _produce(producer, topics.steps, keys[row], message, headers)
        records += len(there)
    if left := producer.flush(120):
        raise FleetcastError(f"{left} steps could not be written")
    return Prefilled(last_step, np.stack(kept, axis=1), records)


def commit(scene: Scene, topics: Topics, contract: Contract, last_step: int) -> None:
    """Leave the group as a service leaves it that has read nothing of the input after those steps."""
    group = topics.steps.removesuffix(".steps")
    consumer = Consumer({**scene.kafka, "group.id": group, "enable.auto.commit": False})
    offsets = []
    for partition in consumer.list_topics(topics.steps, timeout=10).topics[topics.steps].partitions:
        _, end = consumer.get_watermark_offsets(TopicPartition(topics.steps, partition), timeout=10)
        at = Position(0, 0, (last_step + 1) * contract.step_ms, 0, end)
        offsets.append(TopicPartition(topics.metrics, partition, 0, at.metadata()))
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


def _produce(producer: Producer, topic: str, key: bytes, value: bytes, headers: Any) -> None:
    while True:
        try:
            producer.produce(topic, value, key, headers=headers)
        except BufferError:
            producer.poll(0.05)
        else:
            return


def _schema_id(scene: Scene, topics: Topics) -> int:
    return Registry(scene.stack.registry_url).schema_id(topics.steps, step_schema(scene.contract))


class _Template:
    """Steps of many servers from the bytes of one."""

    def __init__(self, contract: Contract, fingerprint: str, schema_id: int) -> None:
        self._contract, self._fingerprint = contract, fingerprint
        self._frame = frame(schema_id)
        self._schema = fastavro.parse_schema(plain_schema(step_schema(contract)))
        # Numbers that occur nowhere else in the bytes show where each real stands.
        self._marks = [1e300 * (1 + column / 64) for column in range(len(contract.reals))]
        sample = self._encode(0)
        self._places = [sample.index(struct.pack("<d", mark)) for mark in self._marks]
        self._id = len(self._frame) + 1
        self._varies = len(sample)

    def fill(self, step: int, ids: NDArray[np.uint8], values: Floats) -> list[bytes]:
        """One message a server."""
        base = self._encode(step)
        shift = len(base) - self._varies  # the step's start takes more bytes than 0 did
        rows = np.tile(np.frombuffer(base, np.uint8), (len(ids), 1))
        rows[:, self._id : self._id + _NAME_LENGTH] = ids
        for column, place in enumerate(self._places):
            numbers = np.ascontiguousarray(values[:, column], "<f8").view(np.uint8).reshape(-1, 8)
            rows[:, place + shift : place + shift + 8] = numbers
        whole, width = rows.tobytes(), len(base)
        return [whole[at : at + width] for at in range(0, len(whole), width)]

    def _encode(self, step: int) -> bytes:
        contract = self._contract
        record: dict[str, Any] = {
            "server_id": "x" * _NAME_LENGTH, "step_start": step * contract.step_ms,
            "step_seconds": contract.settings.step_seconds, "count": 5, "held": False, "held_fields": [],
            "contract_fingerprint": self._fingerprint,
        }  # fmt: skip
        record |= {f.name: mark for f, mark in zip(contract.reals, self._marks, strict=True)}
        record |= {f.name: f.symbols[0] for f in contract.enums}
        out = io.BytesIO()
        out.write(self._frame)
        fastavro.schemaless_writer(out, self._schema, record)
        return out.getvalue()
