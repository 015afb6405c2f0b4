"""Topics of one's own for each test, and the service run in this process."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from consumer.core import Core
from consumer.options import ServiceOptions
from consumer.ownership import check_owner
from consumer.published import StepReader
from consumer.service import Service
from consumer.startup import check_topics, codecs
from devstack import Stack
from models.artifact import Model
from models.samples import History
from producer.publish import Publisher
from schemas.batch import EventBatch
from schemas.codec import EventCodec
from schemas.contract import Contract
from schemas.records import forecast_schema, step_schema
from schemas.registry import Registry
from schemas.topics import Topics, connect, create
from tests.models.conftest import events, random_model

PARTITIONS = 3
READ_SECONDS = 60  # without any record


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A record as any subscriber sees it: decoded with the registry alone."""

    key: str | None
    value: Any
    headers: dict[str, str]
    partition: int
    offset: int


@dataclass(slots=True)
class Stream:
    """One test's topics on the real stack."""

    stack: Stack
    topics: Topics
    contract: Contract
    registry: Registry = field(init=False)
    properties: dict[str, str] = field(default_factory=dict)  # of the service's clients

    def __post_init__(self) -> None:
        self.registry = Registry(self.stack.registry_url)

    @property
    def kafka(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.stack.bootstrap_servers}

    def publish(self, batch: EventBatch) -> None:
        """Events as ``replay`` and ``simulate`` publish them."""
        schema_id = self.registry.schema_id(self.topics.metrics, self.contract.schema)
        codec = EventCodec(self.contract, self.registry)
        with Publisher(self.kafka, self.topics.metrics, codec, schema_id) as publisher:
            publisher.publish(batch)
            publisher.flush()

    def publish_raw(
        self, *messages: tuple[bytes | None, bytes | None, list[tuple[str, bytes]]], largest: int = 1_000_000
    ) -> None:
        """Key, value and headers as they are, into partition 0."""
        producer = Producer({**self.kafka, "message.max.bytes": largest + 10_000})
        for key, value, headers in messages:
            producer.produce(self.topics.metrics, value, key, partition=0, headers=headers)
        assert producer.flush(10) == 0

    def consume(self, model: Model, group: str = "test", **options: Any) -> Service:
        """Run the service until everything is read; returns it for its counts."""
        check_topics(self.kafka, self.topics, model.contract)
        options.setdefault("until_idle_seconds", 0.3)
        service = self.service(model, threading.Event(), group, **options)
        service.run()
        return service

    def service(self, model: Model, stop: threading.Event, group: str = "test", **options: Any) -> Service:
        """A member that is not running yet."""
        group_id = f"{self.topics.metrics}.{group}"
        check_owner(self.kafka, self.topics.steps, group_id)
        core = Core(model, codecs(model, self.registry, self.topics), self.topics, group_id)
        return Service(
            core, kafka={**self.kafka, **self.properties}, topics=self.topics,
            options=ServiceOptions(group_id=group_id, **options),
            reader=StepReader(model.contract, model.fingerprint, self.registry), stop=stop,
        )  # fmt: skip

    def read(self, topic: str, *, decode: bool = True) -> list[Subscribed]:
        """All records of a topic."""
        return list(self.iterate(topic, decode=decode))

    def iterate(self, topic: str, *, decode: bool = True) -> Iterator[Subscribed]:
        """All records of a topic one by one, through Confluent's own deserialiser."""
        # With a limit: a registry that was just started may leave a request without an answer (seen once, for ever).
        patience = {"timeout": 5, "max.retries": 3, "retries.wait.ms": 100}
        deserialise = AvroDeserializer(SchemaRegistryClient({"url": self.stack.registry_url, **patience}))
        for message in self._messages(topic):
            value = message.value()
            if decode:
                value = deserialise(value, SerializationContext(topic, MessageField.VALUE))
            key = message.key()
            headers = {name: text.decode() for name, text in message.headers() or []}
            yield Subscribed(key.decode() if key else None, value, headers, message.partition(), message.offset())

    def _messages(self, topic: str) -> Iterator[Message]:
        """Every message up to the end of each partition."""
        consumer = Consumer(
            {**self.kafka, "group.id": "reader", "isolation.level": "read_committed", "enable.partition.eof": True}
        )
        left = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, p, 0) for p in left])
        deadline = time.monotonic() + READ_SECONDS
        while left:
            assert time.monotonic() < deadline, f"partitions {left} of {topic} did not end within {READ_SECONDS} s"
            message = consumer.poll(0.5)  # not consume(): after assign() it was seen to wait for ever
            if message is None:
                continue
            error = message.error()
            if error is None:
                yield message
                deadline = time.monotonic() + READ_SECONDS
            else:
                assert error.code() == KafkaError._PARTITION_EOF, error
                left.discard(message.partition())
        consumer.close()


@pytest.fixture
def make_stream(stack: Stack, request: pytest.FixtureRequest) -> Callable[..., Stream]:
    """Topics named after the test, created and registered."""

    def make(
        contract: Contract | None = None, partitions: int = PARTITIONS, suffix: str = "", metrics: str | None = None
    ) -> Stream:
        name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower() + suffix)[:120].strip("-")
        topics = Topics(metrics or name, f"{name}.steps", f"{name}.forecasts", f"{name}.scores", f"{name}.dlq")
        stream = Stream(stack, topics, contract or Contract.load())
        create(connect(stream.kafka), topics, partitions)
        stream.registry.register(topics.metrics, stream.contract.schema)
        stream.registry.register(topics.steps, step_schema(stream.contract))
        stream.registry.register(topics.forecasts, forecast_schema())
        return stream

    return make


@pytest.fixture(scope="session")
def shipped_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A network of the shipped contract with random weights: what is tested here is the way, not the skill."""
    contract = Contract.load()
    history = History(contract, events(contract, servers=3, steps=160))
    return random_model(contract, history, tmp_path_factory.mktemp("model"))


@pytest.fixture
def make_small_model(tmp_path: Path) -> Callable[[Contract], Model]:
    """The same for any contract."""
    return lambda contract: random_model(contract, History(contract, events(contract, 3, 60)), tmp_path)
