"""What goes wrong under the service, on a real broker."""

import threading
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition

from models.artifact import Model
from schemas.contract import Contract
from tests.integration.conftest import Stream
from tests.integration.test_service import small
from tests.models.conftest import events

pytestmark = pytest.mark.integration


def committed(stream: Stream) -> int:
    reader = Consumer({**stream.kafka, "group.id": f"{stream.topics.metrics}.test"})
    offset = reader.committed([TopicPartition(stream.topics.metrics, 0)], timeout=10)[0].offset
    reader.close()
    return int(offset)


def wait_until(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.05)


def test_nothing_is_committed_of_a_batch_that_failed(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> None:
    """An error in the middle of a batch ends the service; the next run publishes every step of it all the same."""
    contract = small()
    stream, model = make_stream(contract, partitions=1), make_small_model(contract)
    batch = events(contract, servers=3, steps=30, missing=0)
    stream.publish(batch.take(slice(0, 50)))
    stream.consume(model)
    before = committed(stream)
    stream.publish(batch.take(slice(50, None)))
    broken = model.runtime()
    broken._engine = None  # type: ignore[assignment]  inference fails, after the batch's steps were closed
    service = stream.service(model, threading.Event(), until_idle_seconds=0.3)
    service.core._runtime = broken

    with pytest.raises(AttributeError):
        service.run()

    assert committed(stream) == before
    stream.consume(model)
    steps = {(s.key, s.value["step_start"]): s.value["count"] for s in stream.read(stream.topics.steps)}
    watermark = int(batch.time.max()) - 5_000
    closed = (batch.time // contract.step_ms + 1) * contract.step_ms <= watermark
    assert sum(steps.values()) == closed.sum(), "each closed step is there with all of its events"


def test_a_record_of_the_largest_size_goes_to_the_dlq(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> None:
    """What the input topic takes, the DLQ takes with its headers, and the service goes on."""
    contract = small()
    stream = make_stream(contract, partitions=1)
    large = b"\x01" * 1_040_000
    stream.publish_raw((b"big", large, []), largest=1_048_588)
    stream.publish(events(contract, servers=2, steps=10, missing=0))

    service = stream.consume(make_small_model(contract))

    letters = stream.read(stream.topics.dlq, decode=False)
    assert [letter.value for letter in letters] == [large]
    assert service.core.counts.steps > 0


def test_the_broker_may_go_and_come_back(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> None:
    """Killed and started again under the running service: everything is published, and SIGTERM's stop still works."""
    contract = small()
    stream, model, stop = make_stream(contract, partitions=1), make_small_model(contract), threading.Event()
    batch = events(contract, servers=3, steps=40, missing=0)
    service = stream.service(model, stop)
    thread = threading.Thread(target=service.run)
    thread.start()
    stream.publish(batch.take(slice(0, 100)))
    wait_until(lambda: service.core.counts.events == 100)

    stream.stack.kill_broker()
    stream.stack.restart_broker()
    stream.publish(batch.take(slice(100, None)))
    wait_until(lambda: service.core.counts.events >= len(batch))
    stop.set()
    thread.join(30)

    assert not thread.is_alive()
    steps = {(s.key, s.value["step_start"]): s.value["count"] for s in stream.read(stream.topics.steps)}
    closed = (batch.time // contract.step_ms + 1) * contract.step_ms <= int(batch.time.max()) - 5_000
    assert sum(steps.values()) == closed.sum()


def test_a_stop_ends_in_time_while_the_broker_is_away(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> None:
    """With undelivered records and no broker the service gives up after its time; a dead broker is never idle."""
    contract = small()
    stream, model, stop = make_stream(contract, partitions=1), make_small_model(contract), threading.Event()
    stream.publish(events(contract, servers=3, steps=30, missing=0))
    service = stream.service(model, stop, shutdown_timeout_seconds=2, commit_seconds=3600, until_idle_seconds=3)
    thread = threading.Thread(target=service.run)
    thread.start()
    wait_until(lambda: service.core.counts.steps > 0)
    stream.stack.kill_broker()
    try:
        thread.join(6)
        assert thread.is_alive(), "a broker that is away is not an idle one"
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
    finally:
        stream.stack.restart_broker()


def test_readiness_is_computed_from_the_windows(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> None:
    """Ready on an empty topic; not while no window can be forecast from; ready again once one can."""
    contract = small()
    stream, model, stop = make_stream(contract, partitions=1), make_small_model(contract), threading.Event()
    batch = events(contract, servers=2, steps=30, missing=0)
    service = stream.service(model, stop)
    assert service.status()["ready"] is False, "nothing is assigned yet"
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_until(lambda: service.status()["ready"])
        stream.publish(batch.take(slice(0, 4)))
        wait_until(lambda: service.status()["servers"] > 0)
        assert service.status()["ready"] is False
        stream.publish(batch.take(slice(4, None)))
        wait_until(lambda: service.status()["ready"])
        assert service.status()["servers_with_window"] > 0
    finally:
        stop.set()
        thread.join(30)


def test_a_surplus_member_is_not_ready(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> None:
    """Of two members on one partition one serves; the other takes over when it leaves, and nothing is lost."""
    contract = small()
    stream, model = make_stream(contract, partitions=1), make_small_model(contract)
    batch = events(contract, servers=2, steps=30, missing=0)
    stops = [threading.Event(), threading.Event()]
    services = [stream.service(model, stop, instance_id=f"m{i}") for i, stop in enumerate(stops)]
    threads = [threading.Thread(target=service.run) for service in services]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: any(s.status()["ready"] for s in services))
        owner = next(i for i, s in enumerate(services) if s.status()["ready"])
        assert services[1 - owner].status()["ready"] is False
        stream.publish(batch.take(slice(0, 60)))
        wait_until(lambda: services[owner].core.counts.events == 60)
        stops[owner].set()
        wait_until(lambda: bool(services[1 - owner].core.partitions))
        stream.publish(batch.take(slice(60, None)))
        wait_until(lambda: services[1 - owner].core.counts.events >= len(batch) - 60)
    finally:
        for stop, thread in zip(stops, threads, strict=True):
            stop.set()
            thread.join(30)
    steps = {(s.key, s.value["step_start"]): s.value["count"] for s in stream.read(stream.topics.steps)}
    closed = (batch.time // contract.step_ms + 1) * contract.step_ms <= int(batch.time.max()) - 5_000
    assert sum(steps.values()) == closed.sum()
