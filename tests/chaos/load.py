"""The events of a fleet with everything that event time has to cope with, and the thread that feeds them in."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, Message, Producer
from numpy.typing import NDArray

from schemas.batch import EventBatch
from schemas.codec import EventCodec, frame
from schemas.contract import Contract
from tests.chaos.scene import MAXIMUM, Scene

PER_STEP = 5
_DISORDER_SECONDS = 20  # less than the allowed lateness: out of order, not late
_LATE_SECONDS = 200  # three steps ago
_LATE, _INVALID, _UNDECODABLE = 0.001, 0.001, 0.0005
_SHORT_GAP, _LONG_GAP, _JOINS_LATE = 1 / 120, 1 / 300, 0.1
_UNKNOWN_ID = 1_000_000  # no registry here has so many schemas
_CHUNK = 2_000
_TICK_SECONDS = 0.02
_PRODUCER: dict[str, Any] = {
    "enable.idempotence": True,
    "acks": "all",
    "delivery.timeout.ms": 2_147_483_647,  # a broker that is away is waited for
    "partitioner": "murmur2_random",
    "linger.ms": 5,
    "delivery.report.only.error": True,
}


@dataclass(frozen=True, slots=True)
class Events:
    """Events in the order of their sending; ``garbage`` replaces the value of those rows."""

    batch: EventBatch
    garbage: dict[int, bytes]

    def __len__(self) -> int:
        return len(self.batch)


def make_events(contract: Contract, servers: int, count: int, seed: int) -> Events:
    """A fleet's events: five a step a server, in mild disorder, some late, some invalid, some no Avro at all.

    Servers have short gaps, which are held, and long ones, which drop the window; some join late. Event times lie in
    the past: the last is an hour old, so that no event is ahead of its record.
    """
    rng = np.random.default_rng(seed)
    steps = int(count / (servers * PER_STEP) * 1.3) + 2  # more than needed: gaps and late joins take some
    present = np.repeat(_presence(rng, steps, servers)[:, :, None], PER_STEP, axis=2)
    step, server, sample = np.nonzero(present)
    second = 60 * step + (sample + rng.random(len(step))) * (60 / PER_STEP)
    order = np.argsort(second + rng.uniform(0, _DISORDER_SECONDS, len(step)), kind="stable")[:count]
    assert len(order) == count, "too few events were made"
    start = (int(time.time()) - 3600 - 60 * int(step[order].max() + 1)) // 60 * 60
    late = rng.random(count) < _LATE
    milliseconds = ((start + second[order] - _LATE_SECONDS * late) * 1000).astype(np.int64)
    batch = _batch(contract, server[order], milliseconds, rng)
    batch.reals[rng.random(count) < _INVALID, 0] = MAXIMUM * 10
    garbage = {int(row): _garbage(rng, int(row)) for row in np.flatnonzero(rng.random(count) < _UNDECODABLE)}
    return Events(batch, garbage)


def _presence(rng: np.random.Generator, steps: int, servers: int) -> NDArray[np.bool_]:
    """[steps, servers] whether a server reports at all in a step."""
    present = np.ones((steps, servers), bool)
    for share, low, high in ((_SHORT_GAP, 1, 4), (_LONG_GAP, 5, 16)):
        for first, server in zip(*np.nonzero(rng.random((steps, servers)) < share), strict=True):
            present[first : first + rng.integers(low, high), server] = False
    joining = np.flatnonzero(rng.random(servers) < _JOINS_LATE)
    for server, first in zip(joining, rng.integers(steps // 10, steps // 2 + 1, len(joining)), strict=True):
        present[:first, server] = False
    return present


def _batch(
    contract: Contract, server: NDArray[np.intp], milliseconds: NDArray[np.int64], rng: np.random.Generator
) -> EventBatch:
    """Random walks around a level of each server, in the contract's columns."""
    n = len(server)
    batch = EventBatch.allocate(contract, n)
    batch.keys[:] = [f"server-{number:04d}" for number in server]
    batch.time[:] = milliseconds
    columns = {field.name: column for column, field in enumerate(contract.reals)}
    batch.reals[:, columns["load"]] = np.clip(20 + server % 60 + rng.normal(0, 10, n), 0, MAXIMUM)
    batch.reals[:, columns["queue"]] = rng.gamma(2, 1 + server % 7, n)
    batch.reals[:, columns["temperature"]] = np.where(rng.random(n) < 0.2, np.nan, rng.normal(40, 5, n))
    batch.enums[:, 0] = rng.integers(0, len(contract.enums[0].symbols), n)
    return batch


def _garbage(rng: np.random.Generator, row: int) -> bytes:
    """Noise, or a schema id that only the registry can say to be unknown: without a registry its partition waits."""
    noise = rng.bytes(int(rng.integers(1, 40)))
    return frame(_UNKNOWN_ID + row) + noise if row % 2 else b"\xff" + noise


class Load:
    """A thread that sends the events at a rate that may be changed, in order within each partition."""

    def __init__(self, scene: Scene, events: Events) -> None:
        """Nothing is sent yet."""
        self._events, self._topic = events, scene.calm.topics.metrics
        self._servers = len(set(events.batch.keys.tolist()))
        registry = scene.registry()
        self._codec = EventCodec(scene.contract, registry)
        self._schema_id = registry.schema_id(self._topic, scene.contract.schema)
        self._producer = Producer({**_PRODUCER, **scene.kafka})
        self._seconds, self._abandoned = float("inf"), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._last_rate = 0.0
        self.sent = 0

    def warm_up(self, steps: int, seconds: float) -> None:
        """Begin at the rate that sends so many steps of all servers within so many seconds."""
        rate = steps * PER_STEP * self._servers / seconds
        self.spread(len(self._events) / rate)
        self._thread.start()

    def spread(self, seconds: float) -> None:
        """Send what is left at a rate that would take so many seconds.

        The rate follows what is left: where no other rate comes in time the load grows thinner and never ends, since a
        disturbance of members that have nothing to do is none.
        """
        self._seconds = max(seconds, 1.0)

    def finish(self, seconds: float) -> None:
        """Send the rest evenly within ``seconds`` and see all of it acknowledged."""
        self._last_rate = (len(self._events) - self.sent) / seconds
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """The run has failed: send no more."""
        self._abandoned.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def _run(self) -> None:
        try:
            self._send()
            while self._producer.flush(1) and not self._abandoned.is_set():
                pass
        except BaseException as error:  # noqa: BLE001  told by finish()
            self._error = self._error or error

    def _send(self) -> None:
        owed, before = 0.0, time.monotonic()
        for key, value in self._encoded():
            while owed < 1:
                if self._error is not None or self._abandoned.is_set():
                    return
                self._producer.poll(_TICK_SECONDS)
                now = time.monotonic()
                owed += (now - before) * (self._last_rate or (len(self._events) - self.sent) / self._seconds)
                before = now
            self._produce(key, value)
            owed -= 1
            self.sent += 1

    def _encoded(self) -> Iterator[tuple[bytes, bytes]]:
        batch, garbage = self._events.batch, self._events.garbage
        for start in range(0, len(batch), _CHUNK):
            part = batch.take(slice(start, start + _CHUNK))
            values = self._codec.encode(part, self._schema_id)
            for row, (key, value) in enumerate(zip(part.keys.tolist(), values, strict=True), start):
                yield key.encode(), garbage.get(row, value)

    def _produce(self, key: bytes, value: bytes) -> None:
        while not self._abandoned.is_set():
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._on_failure)
            except BufferError:  # the broker is away
                self._producer.poll(0.1)
            else:
                return

    def _on_failure(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._error = AssertionError(f"the load lost an event of {message.key()!r}: {error.str()}")
