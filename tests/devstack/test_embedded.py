import subprocess
import sys
import urllib.error
import urllib.request
import uuid

import pytest
from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from devstack import Stack, StackError, start_stack

_PRODUCE = """
import sys
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": sys.argv[1]})
for number in range(100):
    producer.produce(sys.argv[2], key=b"k", value=b"%d" % number)
sys.exit(producer.flush(20))
"""


def test_another_process_produces_what_we_consume(embedded_stack: Stack) -> None:
    """The embedded broker is a real one: records of another process arrive, all of them and in order."""
    topic = f"t-{uuid.uuid4().hex}"
    subprocess.run([sys.executable, "-c", _PRODUCE, embedded_stack.bootstrap_servers, topic], check=True, timeout=60)
    consumer = Consumer(
        {
            "bootstrap.servers": embedded_stack.bootstrap_servers,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.subscribe([topic])
    try:
        values = [message.value() for message in consumer.consume(100, timeout=30)]
    finally:
        consumer.close()

    assert values == [b"%d" % number for number in range(100)]


def test_nothing_answers_after_the_end() -> None:
    """Broker and registry end with the block, and no folder was needed."""
    with start_stack(broker="embedded", registry="embedded") as stack:
        with urllib.request.urlopen(f"{stack.registry_url}/subjects", timeout=5) as answer:
            assert answer.read() == b"[]"
        assert AdminClient({"bootstrap.servers": stack.bootstrap_servers}).list_topics(timeout=5).brokers

    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{stack.registry_url}/subjects", timeout=5)
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": stack.bootstrap_servers, "log_level": 0}).list_topics(timeout=1)


def test_a_stopped_registry_comes_back_with_its_schemas(embedded_stack: Stack) -> None:
    """An outage of the registry can be had: nobody answers meanwhile, and nothing is forgotten."""
    url = f"{embedded_stack.registry_url}/subjects"
    embedded_stack.stop_registry()
    try:
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=5)
    finally:
        embedded_stack.start_registry()

    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.status == 200


def test_it_cannot_be_killed(embedded_stack: Stack) -> None:
    """Who wants a crash of the broker needs Apache Kafka, and is told so."""
    with pytest.raises(StackError, match="lives in this process"):
        embedded_stack.kill_broker()
    with pytest.raises(StackError, match="lives in this process"):
        embedded_stack.restart_broker()


def test_unknown_names_are_refused() -> None:
    """A broker that does not exist is named."""
    with pytest.raises(StackError, match="'rabbit' is none of"), start_stack(broker="rabbit"):
        pass
