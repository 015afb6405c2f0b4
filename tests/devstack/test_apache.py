"""What only the real pair can do: exactly once, strict topics, a registry that is stopped and started."""

from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from devstack import Stack
from devstack.apicurio import answers

pytestmark = pytest.mark.integration
_WAIT_S = 30


@pytest.fixture
def topic(stack: Stack, request: pytest.FixtureRequest) -> str:
    """One of its own for each test."""
    name = str(request.node.name)
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    admin.create_topics([NewTopic(name, 1)])[name].result(_WAIT_S)
    return name


def values(stack: Stack, topic: str, **more: Any) -> list[bytes | None]:
    """All values of a topic of one partition, to its end; read_committed is librdkafka's default."""
    settings = {"bootstrap.servers": stack.bootstrap_servers, "group.id": topic, "enable.partition.eof": True, **more}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while (message := consumer.poll(_WAIT_S)) is not None and message.error() is None:
        found.append(message.value())
    consumer.close()
    assert message is not None, "the end of the topic did not come"
    return found


def test_transactions_are_isolated(stack: Stack, topic: str) -> None:
    """What was aborted is not read, what was committed is: this broker is good for exactly once."""
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(_WAIT_S)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(_WAIT_S)
        end(_WAIT_S)

    assert stack.transactional
    assert values(stack, topic) == [b"committed"]
    assert values(stack, topic, **{"isolation.level": "read_uncommitted"}) == [b"aborted", b"committed"]


def test_topics_are_not_made_by_a_slip(stack: Stack) -> None:
    """A misspelt topic is an error, not a new topic."""
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    admin.list_topics("no-such-topic", timeout=_WAIT_S)

    assert "no-such-topic" not in admin.list_topics(timeout=_WAIT_S).topics


def test_the_registry_comes_back_with_its_schemas(stack: Stack) -> None:
    """A stopped registry answers nobody; started again it has the same address, ids and levels."""
    with SchemaRegistryClient({"url": stack.registry_url}) as client:
        client.set_compatibility("restart-value", level="FULL")
        schema_id = client.register_schema("restart-value", Schema('"string"', "AVRO"))

        stack.stop_registry()
        try:
            assert not answers(stack.registry_url)
        finally:
            stack.start_registry()

        client.clear_caches()
        assert client.get_schema(schema_id).schema_str == '"string"'
        assert client.get_compatibility("restart-value") == "FULL"
