"""A clock and a sink for tests of pacing: time passes only where somebody waits for it."""

import math
import threading

from schemas.batch import EventBatch


class FakeClock:
    """Implements `producer.pacing.Clock`."""

    def __init__(self, now_ms: int, stop_at_ms: float = math.inf) -> None:
        self._now, self._stop_at = now_ms, stop_at_ms

    def now_ms(self) -> int:
        return self._now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self._now += max(1, math.ceil(seconds * 1000))
        if self._now >= self._stop_at:
            stop.set()

    def jump(self, ms: int) -> None:
        """Work takes time too."""
        self._now += ms


class Recorder:
    """Implements `producer.stream.Sink`: remembers what was published when, by the clock."""

    def __init__(self, clock: FakeClock, takes: int | None = None, cost_ms: int = 0) -> None:
        self._clock, self._takes, self._cost = clock, takes, cost_ms
        self.batches: list[EventBatch] = []
        self.times: list[tuple[int, int]] = []  # of each event: the clock's time, the event's
        self.flushed = False

    def publish(self, batch: EventBatch) -> int:
        taken = len(batch) if self._takes is None else min(self._takes, len(batch))
        self.batches.append(batch.take(slice(taken)))
        self.times += [(self._clock.now_ms(), int(t)) for t in batch.time[:taken]]
        self._clock.jump(self._cost)
        self.flushed = False
        return taken

    def flush(self) -> None:
        self.flushed = True
