"""The real broker and registry through what a stack offers: exactly once, accidents, restarts."""

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from devstack import Stack, StackError, kafka, start_stack
from devstack.server import free_ports

pytestmark = pytest.mark.integration
_WAIT_S = 30
_QUIET = {"log_level": 0}  # a client whose broker is killed on purpose need not say so


@pytest.fixture
def topic(stack: Stack, request: pytest.FixtureRequest) -> str:
    """One of its own for each test."""
    name = str(request.node.name)
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    admin.create_topics([NewTopic(name, num_partitions=2, replication_factor=1)])[name].result(_WAIT_S)
    return name


@pytest.fixture
def clean_registry(stack: Stack) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": stack.registry_url, "max.retries": 0}) as client:
        yield client


def producer(stack: Stack, **more: Any) -> Producer:
    return Producer({"bootstrap.servers": stack.bootstrap_servers, **_QUIET, **more})


def values(stack: Stack, topic: str) -> list[bytes]:
    """All committed values of the first partition, to its end."""
    settings = {"bootstrap.servers": stack.bootstrap_servers, "group.id": topic, "enable.partition.eof": True, **_QUIET}
    consumer = Consumer(settings)  # read_committed is librdkafka's default
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    while (message := consumer.poll(_WAIT_S)) is not None and message.error() is None:
        found.append(message.value() or b"")
    consumer.close()
    assert message is not None, "the broker does not answer"
    return found


def test_transactions_are_isolated(stack: Stack, topic: str) -> None:
    """What was aborted is not read, what was committed is: the broker is good for exactly once."""
    client = producer(stack, **{"transactional.id": topic})
    client.init_transactions(_WAIT_S)
    for value, end in ((b"aborted", client.abort_transaction), (b"committed", client.commit_transaction)):
        client.begin_transaction()
        client.produce(topic, value, partition=0)
        client.flush(_WAIT_S)
        end(_WAIT_S)

    assert stack.transactional
    assert values(stack, topic) == [b"committed"]


def test_topics_are_not_made_by_a_slip(stack: Stack) -> None:
    """A misspelt topic is an error, not a new topic."""
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    admin.list_topics("no-such-topic", timeout=_WAIT_S)

    assert "no-such-topic" not in admin.list_topics(timeout=_WAIT_S).topics


def test_a_killed_broker_comes_back_with_its_data(stack: Stack, topic: str) -> None:
    """After SIGKILL and a restart the broker is at the same address, its records are there, and clients go on."""
    client = producer(stack)
    client.produce(topic, b"before", partition=0)
    assert client.flush(_WAIT_S) == 0

    stack.kill_broker()
    client.produce(topic, b"meanwhile", partition=0)
    assert client.flush(0.5) == 1
    stack.restart_broker()

    assert client.flush(_WAIT_S) == 0
    assert values(stack, topic) == [b"before", b"meanwhile"]


def test_the_registry_comes_back_with_its_schemas(stack: Stack, clean_registry: SchemaRegistryClient) -> None:
    """A stopped registry answers nobody; started again it has the same address and the same ids."""
    schema_id = clean_registry.register_schema("restart-value", Schema('"string"', "AVRO"))

    stack.stop_registry()
    with pytest.raises(OSError, match="refused"):
        clean_registry.get_subjects()
    stack.start_registry()

    clean_registry.clear_caches()
    assert clean_registry.get_schema(schema_id).schema_str == '"string"'


def test_taken_ports_are_passed_over(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another is quicker to take the port that was chosen, the broker is started on another one."""
    taken = int(stack.bootstrap_servers.rpartition(":")[2])
    choices = iter([[taken, *free_ports(1)], free_ports(2)])
    monkeypatch.setattr(kafka, "free_ports", lambda _: next(choices))

    with start_stack(broker="apache", registry="embedded") as second:
        assert second.bootstrap_servers != stack.bootstrap_servers
        assert next(choices, None) is None


def test_embedded_brokers_are_not_killed(embedded_stack: Stack) -> None:
    """The broker inside this process cannot be killed alone, and says so."""
    for accident in (embedded_stack.kill_broker, embedded_stack.restart_broker):
        with pytest.raises(StackError, match="lives in this process"):
            accident()
