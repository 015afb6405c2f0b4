import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from devstack import start_stack
from schemas.codec import EventCodec
from schemas.contract import Contract
from schemas.errors import InputError, MismatchError, UnreachableError
from schemas.registry import Registry, subject
from tests import contracts
from tests.schemas.test_codec import WHOLE_RECORD, written

SCHEMA = contracts.rich().schema


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with start_stack(broker="embedded", registry="embedded") as stack:
        yield stack.registry_url


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own."""
    return str(request.node.name)


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that answers everything with one status and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  the name is http.server's

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def with_field(**field: Any) -> dict[str, Any]:
    schema = copy.deepcopy(SCHEMA)
    schema["fields"].append({"name": "extra", **field})
    return schema


def test_subjects_follow_topic_names() -> None:
    """TopicNameStrategy: a topic's values are registered under its name and -value."""
    assert subject("server-metrics") == "server-metrics-value"


def test_what_was_registered_is_found(url: str, topic: str) -> None:
    """Registering twice gives one id; the id is found by schema, and the schema, annotations included, by id."""
    first = Registry(url).register(topic, SCHEMA)

    assert Registry(url).register(topic, SCHEMA) == first
    assert Registry(url).schema_id(topic, SCHEMA) == first
    assert Registry(url).writer_schema(first) == SCHEMA
    assert Contract(Registry(url).writer_schema(first) or {}).targets == Contract(SCHEMA).targets


def test_services_do_not_register(url: str, topic: str) -> None:
    """A schema that is not registered is a mismatch that says what to run; asking does not register it."""
    for _ in range(2):
        with pytest.raises(MismatchError, match=f"Sample is not registered under {topic}-value .*schemas register"):
            Registry(url).schema_id(topic, SCHEMA)

    Registry(url).register(topic, SCHEMA)
    with pytest.raises(MismatchError) as caught:
        Registry(url).schema_id(topic, with_field(type="int", default=0))
    assert caught.value.exit_code == 3


def test_an_incompatible_schema_is_refused(url: str, topic: str) -> None:
    """What cannot read the registered events is refused with exit code 3, and the old schema stands."""
    registry = Registry(url)
    first = registry.register(topic, SCHEMA)
    required = with_field(type="int")

    assert registry.incompatibilities(topic, required)
    with pytest.raises(MismatchError, match=r"refused by the registry: .*extra") as caught:
        registry.register(topic, required)

    assert caught.value.exit_code == 3
    assert registry.schema_id(topic, SCHEMA) == first


def test_a_compatible_schema_follows(url: str, topic: str) -> None:
    """A nullable field with a default may follow; before anything is registered there is nothing to compare with."""
    registry, grown = Registry(url), with_field(type=["null", "double"], default=None)
    assert registry.incompatibilities(topic, grown) is None

    first = registry.register(topic, SCHEMA)

    assert registry.incompatibilities(topic, grown) == []
    assert registry.register(topic, grown) != first


def test_unknown_ids(url: str) -> None:
    """An id that the registry does not know is None, not an error."""
    assert Registry(url).writer_schema(987_654) is None


def test_nobody_there() -> None:
    """A registry out of reach is said with its address, and the exit code is 4, whatever was asked."""
    registry = Registry("http://127.0.0.1:1")
    calls = (
        lambda: registry.writer_schema(1),
        lambda: registry.schema_id("t", SCHEMA),
        lambda: registry.register("t", SCHEMA),
        lambda: registry.incompatibilities("t", SCHEMA),
    )
    for call in calls:
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1\b") as caught:
            call()
        assert caught.value.exit_code == 4


@pytest.mark.parametrize("given", ["localhost:8081", "ftp://x", ""])
def test_no_url(given: str) -> None:
    """What is no URL of a registry is wrong usage, and is shown."""
    with pytest.raises(InputError, match=f"'{given}'"):
        Registry(given)


@pytest.mark.parametrize(("status", "body"), [(503, b"{}"), (404, b"<html>nothing here</html>"), (429, b"{}")])
def test_a_broken_registry_costs_no_message(status: int, body: bytes) -> None:
    """A proxy's 404, a 429 or a 5xx is not 'no such schema': the event waits, it is not refused."""
    with answering(status, body) as url, pytest.raises(UnreachableError):
        EventCodec(contracts.rich(), Registry(url)).decode([written(SCHEMA, WHOLE_RECORD)])


def test_values_of_another_kind() -> None:
    """A message under a Protobuf schema is refused by that name."""
    answer = {"schemaType": "PROTOBUF", "schema": 'syntax = "proto3"; message A {}'}
    with answering(200, json.dumps(answer).encode()) as url:
        _, _, rejected = EventCodec(contracts.rich(), Registry(url)).decode([written(SCHEMA, WHOLE_RECORD)])

    assert "PROTOBUF" in rejected[0].reason


def test_known_ids_outlive_the_registry() -> None:
    """When the registry is gone, messages under known ids still decode; an unknown id raises."""
    with answering(200, json.dumps({"schema": json.dumps(SCHEMA)}).encode()) as url:
        registry = Registry(url)
        codec, later = (EventCodec(contracts.rich(), registry) for _ in range(2))
        codec.decode([written(SCHEMA, WHOLE_RECORD)])

    for each in (codec, later):
        batch, _, rejected = each.decode([written(SCHEMA, WHOLE_RECORD)])
        assert (len(batch), rejected) == (1, [])
    with pytest.raises(UnreachableError):
        codec.decode([written(SCHEMA, WHOLE_RECORD, schema_id=2)])
