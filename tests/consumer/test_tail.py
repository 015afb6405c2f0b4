import datetime as dt
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError

from consumer.tail import _decode, _Trouble, as_json, as_line, spark
from schemas.errors import FleetcastError, UnreachableError
from schemas.registry import Registry
from tests.records import RecordCodec

RECORD = {
    "type": "record", "name": "R",
    "fields": [{"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
               {"name": "cpu", "type": "double"}, {"name": "raw", "type": "bytes"}],
}  # fmt: skip
SCHEMAS = {
    "1": {"schema": json.dumps(RECORD)},
    "2": {"schema": '"string"'},
    "3": {"schema": 'syntax = "proto3"; message M {}', "schemaType": "PROTOBUF"},
    "4": {"schema": '{"type": "object"}', "schemaType": "JSON"},
}
AT = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = SCHEMAS.get(self.path.split("?")[0].rpartition("/")[2])
        body = json.dumps(found or {"error_code": 40403, "message": "no such schema"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Registry(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def framed(schema_id: int, body: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + body


def test_a_record_is_decoded(registry: Registry) -> None:
    """JSON has ISO times, bytes as hexadecimal and null for NaN; lines are short."""
    (message,) = RecordCodec(RECORD, 1).encode([{"at": AT, "cpu": float("nan"), "raw": b"\x01\xff"}])

    record = _decode(message, registry, {})

    assert json.loads(as_json(record)) == {"at": "2026-01-05T00:00:00.000Z", "cpu": None, "raw": "01ff"}
    assert as_line(record) == "at=2026-01-05T00:00:00.000Z  cpu=nan  raw=01ff"


@pytest.mark.parametrize("schema_id", [3, 4, 9])
def test_a_value_of_another_kind_is_told(registry: Registry, schema_id: int) -> None:
    """Protobuf, JSON Schema and unknown ids: the reason, and the bytes as they came."""
    message = framed(schema_id, b"\x08\x01")

    shown = json.loads(as_json(_decode(message, registry, {})))

    assert f"schema id {schema_id}" in shown["undecodable"]
    assert shown["bytes"] == message.hex()
    assert as_line(_decode(message, registry, {})).startswith("undecodable=")


@pytest.mark.parametrize("message", [b"", b"plain", None, framed(1, b"\x02")])
def test_what_is_no_avro_is_told(registry: Registry, message: bytes | None) -> None:
    """Nothing, text and half a record have a line and a JSON object too."""
    record = _decode(message, registry, {})

    assert json.loads(as_json(record))["undecodable"]
    assert as_line(record).startswith("undecodable=")


def test_a_plain_string_is_a_value(registry: Registry) -> None:
    """An Avro value that is no record is shown as ``value``."""
    record = _decode(framed(2, b"\x04hi"), registry, {})

    assert (as_json(record), as_line(record)) == ('{"value": "hi"}', "value=hi")


def test_a_registry_out_of_reach_ends_it() -> None:
    """Nothing can be said of an id that cannot be looked up."""
    with pytest.raises(UnreachableError):
        _decode(framed(1, b""), Registry("http://127.0.0.1:1"), {})


@pytest.mark.parametrize(
    "targets", [None, "x", [1], [{"name": "cpu"}], [{"name": "cpu", "quantiles": [], "breach": None}]]
)
def test_foreign_targets_are_no_forecast(targets: Any) -> None:
    """A record of somebody else's with a field ``targets`` is shown as it is."""
    assert as_line({"server_id": "a", "issued_at": AT, "targets": targets}).startswith("server_id=a")


def test_a_forecast_has_bars() -> None:
    """Medians from the first to the last step; a high risk is shown."""
    quantiles = [{"level": 0.5, "values": [1.0, 2.0, 3.0]}, {"level": 0.9, "values": [2.0, 3.0, 4.0]}]
    target = {"name": "cpu", "quantiles": quantiles, "breach": {"probability": 0.75}}

    line = as_line({"server_id": "web-1", "issued_at": AT, "targets": [target]})

    assert line == "05 Jan 00:00  web-1           cpu 1.0▁▃▆3.0 [3..4] !75%"


def test_bars_of_what_is_not_finite() -> None:
    """NaN and infinity have no bar and cost the others none."""
    nan, inf = float("nan"), float("inf")

    assert spark([1.0, nan, 2.0, inf], [1.0, 2.0, nan]) == "▁ █ "
    assert spark([nan], [nan]) == " "


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC]
)
def test_what_no_waiting_mends_ends_it(code: int) -> None:
    """No right to read, or no topic any more: the reason, instead of silence for ever."""
    with pytest.raises(FleetcastError, match="topic t cannot be read: because"):
        _Trouble("t", lambda: 0.0).tell(KafkaError(code, "because"))


def test_trouble_is_told_once_in_a_while() -> None:
    """What librdkafka retries is logged at once, and again after half a minute."""
    now = [100.0]
    trouble = _Trouble("t", lambda: now[0])
    with structlog.testing.capture_logs() as logs:
        for now[0] in (100.0, 101.0, 129.0, 131.0):
            trouble.tell(KafkaError(KafkaError._ALL_BROKERS_DOWN, "down"))

    assert [entry["reason"] for entry in logs] == ["down", "down"]
