"""The service on a real broker: refused records, committed offsets, and a clean end."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from models.artifact import Model
from producer.fleet import Fleet
from schemas.batch import EventBatch
from schemas.codec import EventCodec
from schemas.contract import Contract
from schemas.errors import MismatchError
from schemas.topics import Topics, connect, create
from tests import contracts
from tests.integration.conftest import Stream
from tests.models.conftest import events

pytestmark = pytest.mark.integration
SMALL = {"step_seconds": 60, "encoder_steps": 12, "min_encoder_steps": 4, "horizon_steps": 5}


def small() -> Contract:
    return contracts.rich(**SMALL)


def test_refused_records_are_kept_and_the_stream_goes_on(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> None:
    """Bytes, key and headers of a record that cannot be used stay as they were; its neighbours are not affected."""
    contract = small()
    stream = make_stream(contract, partitions=1)
    batch = events(contract, servers=3, steps=30, missing=0)
    bad = batch.take([40, 41, 42])
    bad.reals[0, 0] = -1.0  # below its minimum
    bad.keys[1] = ""
    bad.time[2] = int(time.time() * 1000) + 3_600_000  # an hour ahead of its record
    schema_id = stream.registry.schema_id(stream.topics.metrics, contract.schema)
    invalid = EventCodec(contract, stream.registry).encode(bad, schema_id)
    raw = [
        (b"k", b"not avro at all", [("trace", b"7")]), (None, None, []), (b"k", b"\x00\x7f\xff\xff\xff\x00", []),
        *((b"k", value, []) for value in invalid),
    ]  # fmt: skip

    stream.publish(batch.take(slice(0, 90)))
    stream.publish_raw(*raw)
    stream.publish(batch.take(slice(90, None)))
    stream.publish(batch.take(slice(0, 2)))  # long closed by now
    service = stream.consume(make_small_model(contract))

    letters = stream.read(stream.topics.dlq, decode=False)
    assert [(letter.key, letter.value) for letter in letters[:6]] == [(k and k.decode(), v) for k, v, _ in raw]
    assert letters[0].headers["trace"] == "7"
    stages = [letter.headers["__connect.errors.stage"] for letter in letters]
    assert stages == ["decode"] * 3 + ["validate"] * 3 + ["late"] * 2
    reasons = [letter.headers["__connect.errors.exception.message"] for letter in letters]
    words = ("first byte", "no value", "not registered", "load: -1", "host: is empty", "after the record", "closed")
    for word, reason in zip(words, reasons, strict=False):
        assert word in reason
    assert letters[0].headers["__connect.errors.topic"] == stream.topics.metrics
    assert letters[3].headers["__connect.errors.offset"] == "93"
    assert service.core.counts.events == len(batch)
    steps = stream.read(stream.topics.steps)
    assert sum(s.value["count"] for s in steps) == len(batch) - open_events(batch, contract)


def open_events(batch: EventBatch, contract: Contract) -> int:
    """Events whose step the last event's watermark has not closed."""
    watermark = int(batch.time.max()) - 1000 * int(contract.settings.allowed_lateness_seconds)
    return int(((batch.time // contract.step_ms + 1) * contract.step_ms > watermark).sum())


def test_a_second_run_reads_only_what_is_open(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> None:
    """The committed offset is the first one whose event still sits in an open step; nothing is published again."""
    contract = small()
    stream, model = make_stream(contract, partitions=1), make_small_model(contract)
    batch = events(contract, servers=3, steps=30, missing=0)
    stream.publish(batch)
    first = stream.consume(model)
    published = len(stream.read(stream.topics.steps))

    second = stream.consume(model)

    still_open = open_events(batch, contract)
    assert first.core.counts.forecasts > 0
    assert still_open > 0
    assert (second.core.counts.events, second.core.counts.steps) == (0, 0)
    assert len(stream.read(stream.topics.steps)) == published
    group = {"group.id": f"{stream.topics.metrics}.test"}
    reader = Consumer({**stream.kafka, **group})
    committed = reader.committed([TopicPartition(stream.topics.metrics, 0)], timeout=10)[0]
    reader.close()
    assert committed.offset == len(batch) - still_open


def test_steps_must_have_the_inputs_partitions(make_stream: Callable[..., Stream], shipped_model: Model) -> None:
    """A steps topic of another partition count is refused at start, as is an unregistered schema."""
    stream = make_stream()
    other = Topics(f"{stream.topics.metrics}.other", stream.topics.steps, "x.forecasts", "x.scores", "x.dlq")
    create(connect(stream.kafka), other, partitions=5)
    stream.topics = other

    with pytest.raises(MismatchError, match=r"has 3 partitions, .* has 5"):
        stream.consume(shipped_model)


def test_unregistered_schemas_are_named(make_stream: Callable[..., Stream], shipped_model: Model) -> None:
    """No service registers a schema: what is missing is named, with the command that helps."""
    stream = make_stream()
    name = f"{stream.topics.metrics}.fresh"
    stream.topics = Topics(name, f"{name}.steps", f"{name}.forecasts", f"{name}.scores", f"{name}.dlq")
    create(connect(stream.kafka), stream.topics, partitions=1)

    with pytest.raises(MismatchError, match=r"not registered under .*fleetcast schemas register"):
        stream.consume(shipped_model)


def test_the_command_ends_cleanly_on_sigterm(
    make_stream: Callable[..., Stream], shipped_model: Model, tmp_path: Path
) -> None:
    """`consume` says when it is ready, serves its figures, and SIGTERM ends it with exit 0 and everything committed."""
    stream = make_stream()
    batch = Fleet(stream.contract, 4, 3).metrics(1_767_571_200_000, 60, 12 * 60 + 30)
    stream.publish(batch)
    names = {"metrics": "", "steps": ".steps", "forecasts": ".forecasts", "scores": ".scores", "dlq": ".dlq"}
    config = tmp_path / "fleetcast.toml"
    lines = [f'{k} = "{stream.topics.metrics}{v}"' for k, v in names.items()]
    config.write_text("\n".join(["[topics]", *lines]))
    environment = {
        **os.environ,
        "FLEETCAST_ENGINE": "llvm",
        "FLEETCAST_BOOTSTRAP_SERVERS": stream.stack.bootstrap_servers,
        "FLEETCAST_REGISTRY_URL": stream.stack.registry_url,
    }
    model = Path(shipped_model.metadata["folder"])
    command = [sys.executable, "-m", "fleetcast", "consume", "--model", str(model), "--config", str(config),
               "--http-port", "0", "--group-id", f"{stream.topics.metrics}.test"]  # fmt: skip
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        port, ready = 0, False
        for line in process.stderr or ():
            said = json.loads(line) if line.startswith("{") else {}
            port = said.get("port", port)
            ready = said.get("event") == "caught up"
            if ready:
                break
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=10) as answer:
            status = json.load(answer)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read() if process.stderr else ""
        code = process.wait(30)

    assert (ready, code) == (True, 0), rest
    assert status["ready"] is True
    assert status["events"] == len(batch)
    assert status["forecasts"] == len(stream.read(stream.topics.forecasts)) > 0
    assert stream.consume(shipped_model).core.counts.events == 0, "everything was committed"
