"""A broker, a registry and topics to measure on, and what can be read off the topics afterwards."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.cimpl import NewTopic
from numpy.typing import NDArray

from bench.processes import Running, running
from devstack import Stack, start_stack
from devstack.server import free_ports
from producer.publish import Publisher
from schemas.batch import EventBatch
from schemas.codec import EventCodec
from schemas.contract import Contract
from schemas.errors import FleetcastError
from schemas.records import forecast_schema, step_schema
from schemas.registry import Registry
from schemas.topics import Topics, connect, create

SILENCE_SECONDS = 60.0  # without any record, while some are expected


@dataclass(frozen=True, slots=True)
class Scene:
    """A stack and a folder.

    Attributes:
        contract: of the events.
    """

    stack: Stack
    folder: Path
    contract: Contract

    @property
    def kafka(self) -> dict[str, Any]:
        """What each client needs."""
        return {"bootstrap.servers": self.stack.bootstrap_servers}

    def topics(self, name: str, partitions: int, metrics: str | None = None) -> Topics:
        """Topics of their own, created and registered; ``metrics``: the input of another set."""
        topics = Topics(metrics or name, f"{name}.steps", f"{name}.forecasts", f"{name}.scores", f"{name}.dlq")
        create(connect(self.kafka), topics, partitions)
        registry = Registry(self.stack.registry_url)
        registry.register(topics.metrics, self.contract.schema)
        registry.register(topics.steps, step_schema(self.contract))
        registry.register(topics.forecasts, forecast_schema())
        return topics

    def topic(self, name: str, partitions: int) -> None:
        """A topic of a peer, stamped by the broker's clock as ours are: a producer's own would be event time."""
        settings = {"message.timestamp.type": "LogAppendTime", "compression.type": "zstd"}
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        admin = connect(self.kafka)  # its futures end only while it lives
        admin.create_topics([new])[name].result(30)

    @contextmanager
    def publisher(self, topics: Topics, **properties: Any) -> Iterator[Publisher]:
        """As ``replay`` has it."""
        registry = Registry(self.stack.registry_url)
        schema_id = registry.schema_id(topics.metrics, self.contract.schema)
        codec = EventCodec(self.contract, registry)
        with Publisher({**self.kafka, **properties}, topics.metrics, codec, schema_id) as publisher:
            yield publisher

    def publish(self, topics: Topics, batch: EventBatch) -> None:
        """All events, acknowledged."""
        with self.publisher(topics) as publisher:
            for start in range(0, len(batch), 5_000):
                publisher.publish(batch.take(slice(start, start + 5_000)))
            publisher.flush(120)

    @contextmanager
    def consume(self, topics: Topics, model: Path, *options: str) -> Iterator[tuple[Running, int]]:
        """A ``fleetcast consume`` on those topics, and its health's port; the group's name is that of the steps."""
        name, port = topics.steps.removesuffix(".steps"), free_ports(1)[0]
        config = self.folder / f"{name}.toml"
        named = {n: getattr(topics, n) for n in Topics.__slots__}
        config.write_text("[topics]\n" + "".join(f"{n} = {json.dumps(v)}\n" for n, v in named.items()), "utf-8")
        contract = self.folder / f"{name}.avsc"
        contract.write_text(json.dumps(self.contract.schema), "utf-8")
        command = [
            "consume", "--config", str(config), "--bootstrap-servers", self.stack.bootstrap_servers,
            "--registry-url", self.stack.registry_url, "--contract", str(contract), "--model", str(model),
            "--group-id", name, "--http-port", str(port), *options,
        ]  # fmt: skip
        with running(command, self.folder / f"{name}.log") as process:
            yield process, port

    def append_times(self, topic: str) -> NDArray[np.int64]:
        """[n] sorted, in ms, when the broker appended each committed record of ``topic``.

        Raises:
            FleetcastError: its timestamps are not the broker's.
        """
        stamps = [message.timestamp() for message in self.records(topic)]
        if any(kind != TIMESTAMP_LOG_APPEND_TIME for kind, _ in stamps):
            raise FleetcastError(f"{topic} is not stamped with LogAppendTime: no speed can be told from it")
        return np.sort(np.array([at for _, at in stamps], np.int64))

    def records(self, topic: str) -> Iterator[Message]:
        """All committed records there are."""
        consumer = subscriber(self, {"enable.partition.eof": True})
        left = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in left])
        heard = time.monotonic()
        try:
            while left:
                message = consumer.poll(0.5)
                if message is None:
                    if time.monotonic() - heard > SILENCE_SECONDS:
                        raise FleetcastError(f"{topic} cannot be read to its end: partitions {sorted(left)}")
                    continue
                heard, error = time.monotonic(), message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition() or 0)
                else:
                    raise FleetcastError(f"{topic} cannot be read: {error.str()}")
        finally:
            consumer.close()


@contextmanager
def scene(contract: Contract, *, quick: bool) -> Iterator[Scene]:
    """Apache Kafka and a registry; the embedded one where it has to be quick, since it is asked but once."""
    with (
        tempfile.TemporaryDirectory(prefix="fleetcast-bench-") as folder,
        start_stack(broker="apache", registry="embedded" if quick else "auto") as stack,
    ):
        yield Scene(stack, Path(folder), contract)


def subscriber(at: Scene, properties: dict[str, Any] | None = None) -> Consumer:
    """Reads what is committed; nothing assigned yet."""
    settings = {
        "group.id": "bench-subscriber", "isolation.level": "read_committed", "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "fetch.wait.max.ms": 50,
    }  # fmt: skip
    return Consumer({**at.kafka, **settings, **(properties or {})})
