import http.client
import json
import subprocess
import sys
import uuid
from typing import Any

import pytest
from confluent_kafka import Consumer

from devstack import Stack, StackError, start_stack
from devstack.apicurio import answers
from devstack.kafka import answering_cluster

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
    """Broker and registry end with the block."""
    with start_stack(broker="embedded", registry="embedded") as stack:
        assert answers(stack.registry_url)
        assert answering_cluster(stack.bootstrap_servers)

    assert not answers(stack.registry_url)
    assert not answering_cluster(stack.bootstrap_servers)


def test_a_stopped_registry_closes_its_connections(embedded_stack: Stack) -> None:
    """An outage of the registry can be had: clients with an open connection notice, and nothing is forgotten."""
    connection = http.client.HTTPConnection(embedded_stack.registry_url.removeprefix("http://"), timeout=5)

    def ask(method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection.request(method, path, body)
        return dict(json.loads(connection.getresponse().read()))

    schema_id = ask("POST", "/subjects/outage-value/versions", json.dumps({"schema": '"string"'}))["id"]
    embedded_stack.stop_registry()
    try:
        with pytest.raises((http.client.HTTPException, OSError)):
            ask("GET", f"/schemas/ids/{schema_id}")
    finally:
        embedded_stack.start_registry()

    connection.close()  # the next request opens another
    assert ask("GET", f"/schemas/ids/{schema_id}") == {"schema": '"string"'}
    connection.close()


def test_unknown_names_are_refused() -> None:
    """A broker that does not exist is named."""
    with pytest.raises(StackError, match="'rabbit' is none of"), start_stack(broker="rabbit"):
        pass
