"""The real broker and registry: exactly once, accidents, restarts, ports and folders."""

from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from devstack import Stack, StackError, kafka, start_stack
from devstack.apicurio import answers
from devstack.server import free_ports

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


def test_a_killed_broker_comes_back_with_its_records(stack: Stack, topic: str) -> None:
    """After SIGKILL and a restart the broker has the same address, its records are there, and clients go on."""
    settings = {"bootstrap.servers": stack.bootstrap_servers, "log_level": 0}  # its broker is killed on purpose
    producer = Producer({**settings, "enable.idempotence": True})
    for number in range(100):
        producer.produce(topic, b"%d" % number)
    assert producer.flush(_WAIT_S) == 0

    stack.kill_broker()
    producer.produce(topic, b"meanwhile")
    assert producer.flush(0.5) == 1
    stack.restart_broker()

    assert producer.flush(_WAIT_S) == 0
    assert values(stack, topic, log_level=0) == [*(b"%d" % number for number in range(100)), b"meanwhile"]


def test_the_registry_comes_back_with_its_schemas(stack: Stack) -> None:
    """A stopped registry answers nobody; started again it has the same address, ids and levels."""
    with SchemaRegistryClient({"url": stack.registry_url, "timeout": 10}) as client:
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


def test_taken_ports_are_given_up(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody is quicker to listen on the port that was chosen, the broker starts on another one."""
    taken = int(stack.bootstrap_servers.rpartition(":")[2])
    first = [[taken, *free_ports(1)]]  # tests beside this one may be quicker again at those that follow
    monkeypatch.setattr(kafka, "free_ports", lambda count: first.pop() if first else free_ports(count))

    with start_stack(broker="apache", registry="embedded") as second:
        assert second.bootstrap_servers != stack.bootstrap_servers
        assert not first


@pytest.mark.usefixtures("stack")  # skips, or fails in CI, where there is no Java
def test_a_given_folder_keeps_the_logs_alone(tmp_path: Path) -> None:
    """Also after an exception: the logs stay and say something, data and processes go, and other files are safe."""
    (tmp_path / "data").mkdir()
    before = psutil.Process().children(recursive=True)

    def interrupted() -> None:
        with start_stack(broker="apache", registry="embedded", folder=tmp_path) as stack:
            assert stack.logs == tmp_path / "logs"
            assert len(list(tmp_path.iterdir())) == 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()

    assert "Kafka Server started" in (tmp_path / "logs" / "kafka.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "logs"]
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def test_the_embedded_broker_has_no_accidents(embedded_stack: Stack) -> None:
    """Who wants a crash of the broker needs Apache Kafka, and is told so."""
    for accident in (embedded_stack.kill_broker, embedded_stack.restart_broker):
        with pytest.raises(StackError, match="lives in this process"):
            accident()
