"""Killed at any moment, moved, or told nothing: what a read_committed subscriber sees is the undisturbed run's."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from consumer.delivery import AbortedError, ExactlyOnce
from consumer.options import AT_LEAST_ONCE
from consumer.service import Service
from models.artifact import Model
from schemas.contract import Contract
from schemas.errors import MismatchError
from tests.integration.conftest import Stream
from tests.integration.test_faults import wait_until
from tests.integration.test_service import small
from tests.models.conftest import events

pytestmark = pytest.mark.integration
Outputs = dict[str, list[tuple[Any, ...]]]


class Died(BaseException):
    """As sudden as a kill: nobody catches it."""


def outputs(stream: Stream) -> Outputs:
    """What a subscriber sees, by key and time; forecasts with the offset that they come from."""
    steps = [
        (s.key, s.value["step_start"], s.value["count"], s.value["load"]) for s in stream.read(stream.topics.steps)
    ]
    forecasts = [
        (f.key, f.value["issued_at"], *f.value["source"].values(), f.value["held_steps"])
        for f in stream.read(stream.topics.forecasts)
    ]
    forecasts = [(key, at, partition, offset, held) for key, at, _, partition, offset, held in forecasts]
    letters = [
        (letter.headers["__connect.errors.offset"], letter.headers["__connect.errors.stage"])
        for letter in stream.read(stream.topics.dlq, decode=False)
    ]
    return {"steps": sorted(steps), "forecasts": sorted(forecasts), "dlq": sorted(letters)}


@pytest.fixture
def disturbed(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model]
) -> tuple[Stream, Model, Outputs]:
    """A stream with a few late events, and what an undisturbed group makes of it."""
    contract = small()
    stream, model = make_stream(contract, partitions=2), make_small_model(contract)
    batch = events(contract, servers=6, steps=40, missing=0.1)
    stream.publish(batch.take(slice(0, 300)))
    stream.publish(batch.take(slice(10, 20)))  # long closed by now
    stream.publish(batch.take(slice(300, None)))
    calm = make_stream(contract, partitions=2, suffix="calm", metrics=stream.topics.metrics)
    calm.consume(model, "calm")
    expected = outputs(calm)
    assert all(expected.values())
    return stream, model, expected


@pytest.mark.parametrize("moment", ["before", "records", "offsets", "after"])
def test_death_at_each_moment_of_a_transaction_changes_nothing(
    disturbed: tuple[Stream, Model, Outputs], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it begins, among its records, with the offsets sent, or committed unknown to us: none lost, none twice."""
    stream, model, expected = disturbed
    for life in range(1, 4):
        with monkeypatch.context() as patch, contextlib.suppress(Died):
            _die(patch, moment, after=2 * life)
            stream.consume(model, poll_records=40, commit_seconds=0)

    stream.consume(model)

    assert outputs(stream) == expected


def _die(patch: pytest.MonkeyPatch, moment: str, after: int) -> None:
    """Die in the ``after``-th transaction; nothing is aborted or committed on the way out, as by SIGKILL."""
    rounds = 0
    whole = ExactlyOnce._write

    def write(self: ExactlyOnce, records: Any, offsets: Any) -> None:
        nonlocal rounds
        rounds += 1
        if rounds < after:
            return whole(self, records, offsets)
        patch.setattr(ExactlyOnce, "close", lambda _: None)
        if moment == "before":
            raise Died
        if moment == "after":
            whole(self, records, offsets)
            raise Died
        assert self._outbox is not None
        self._outbox.begin()
        self._outbox.producer.begin_transaction()
        made = list(records)
        self._outbox.publish(made[: len(made) // 2 + 1] if moment == "records" else made)
        ends = self._outbox.flush()
        if moment == "offsets":
            self._outbox.producer.send_offsets_to_transaction(offsets(ends), self._inbox.group_metadata())
        raise Died

    patch.setattr(ExactlyOnce, "_write", write)


def test_an_aborted_transaction_is_written_again(
    disturbed: tuple[Stream, Model, Outputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are kept: nothing is read, forecast or counted twice, and nothing is lost."""
    stream, model, expected = disturbed
    flush, calls = ExactlyOnce._flush, 0

    def failing(outbox: Any) -> dict[int, int]:
        nonlocal calls
        calls += 1
        ends = flush(outbox)
        if calls % 2:
            raise AbortedError("as a broker might")
        return ends

    monkeypatch.setattr(ExactlyOnce, "_flush", staticmethod(failing))
    service = stream.consume(model, poll_records=60, commit_seconds=0, retry_seconds=0.01)

    assert calls > 4
    assert outputs(stream) == expected
    assert service.core.counts.forecasts == len(expected["forecasts"])


def test_members_come_and_go(disturbed: tuple[Stream, Model, Outputs]) -> None:
    """A partition that moves in order is gone on with where it was left, in the middle of windows and steps."""
    stream, model, expected = disturbed
    for life in range(3):
        stop = threading.Event()
        service = stream.service(model, stop, poll_records=25, instance_id=f"m{life}")
        thread = threading.Thread(target=service.run)
        thread.start()
        wait_until(lambda service=service: service.core.counts.events >= 30)
        stop.set()
        thread.join(30)
        assert not thread.is_alive()

    stream.consume(model, instance_id="last")

    assert outputs(stream) == expected


def test_lost_metadata_publish_nothing_twice(disturbed: tuple[Stream, Model, Outputs]) -> None:
    """Offsets committed by some tool, without our text: restored from all steps; only dead letters may come again."""
    stream, model, expected = disturbed
    half = threading.Event()
    service = stream.service(model, half, poll_records=50)
    thread = threading.Thread(target=service.run)
    thread.start()
    wait_until(lambda: service.core.counts.events >= 250)
    half.set()
    thread.join(30)
    tool = Consumer({**stream.kafka, "group.id": f"{stream.topics.metrics}.test", "enable.auto.commit": False})
    tool.commit(offsets=[TopicPartition(stream.topics.metrics, p, 0) for p in (0, 1)], asynchronous=False)
    tool.close()

    stream.consume(model)

    found = outputs(stream)
    assert found["steps"] == expected["steps"]
    assert found["forecasts"] == expected["forecasts"]
    assert set(found["dlq"]) == set(expected["dlq"])


def test_another_group_is_refused(disturbed: tuple[Stream, Model, Outputs]) -> None:
    """One group owns its output topics: whoever starts as another one is told whose they are."""
    stream, model, _ = disturbed
    stream.consume(model)

    with pytest.raises(MismatchError, match=r"belongs to the group .*\.test, not to .*\.other"):
        stream.consume(model, "other")


def test_at_least_once_loses_nothing(disturbed: tuple[Stream, Model, Outputs], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transactions a death between writing and committing doubles records; each is there and all agree."""
    stream, model, expected = disturbed
    commits = 0

    def commit(self: Any, offsets: Any) -> bool:
        nonlocal commits
        commits += 1
        if commits == 3:
            raise Died
        return bool(original(self, offsets))

    from consumer.inbox import Inbox  # noqa: PLC0415

    original = Inbox.commit
    with monkeypatch.context() as patch, contextlib.suppress(Died):
        patch.setattr(Inbox, "commit", commit)
        stream.consume(model, guarantee=AT_LEAST_ONCE, poll_records=40, commit_seconds=0)
    stream.consume(model, guarantee=AT_LEAST_ONCE)

    found = outputs(stream)
    for topic, records in expected.items():
        assert set(found[topic]) == set(records), topic
    assert len(found["steps"]) > len(expected["steps"]), "the round that was not committed was written again"


def test_nothing_of_a_lost_partition_is_written(disturbed: tuple[Stream, Model, Outputs]) -> None:
    """A member whose partitions went without its knowledge cannot commit: the group's metadata are read anew."""
    stream, model, expected = disturbed
    zombie = stream.service(model, threading.Event(), commit_seconds=3600, instance_id="zombie")
    _turn_until(zombie, lambda: zombie.core.counts.events > 100)
    zombie._inbox._consumer.unsubscribe()  # the group gives its partitions away; it polls no more and does not know
    stream.consume(model, instance_id="heir")

    zombie._commit()

    assert zombie._broken or zombie._ledger, "the round was refused"
    zombie._failed = True
    zombie._inbox.close()
    zombie._delivery.close()
    assert outputs(stream) == expected


def _turn_until(service: Service, condition: Callable[[], bool]) -> None:
    def turned() -> bool:
        service._turn()
        return condition()

    wait_until(turned)
