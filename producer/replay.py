"""Recorded events into the stream, in time order."""

import datetime as dt
import threading
from typing import TextIO

import numpy as np
import structlog

from producer.pacing import Clock, Pace
from producer.progress import Progress
from producer.stream import Published, Sink, publish_paced
from schemas.batch import EventBatch

_log = structlog.get_logger()


def replay(
    sink: Sink,
    batch: EventBatch,
    *,
    speed: float | None,
    clock: Clock,
    stop: threading.Event,
    count: int | None = None,
    terminal: TextIO | None = None,
) -> Published:
    """Publish events in time order, until they end, ``count`` or ``stop``; then flush.

    Args:
        sink: where to.
        batch: in time order (`schemas.history.read_history`).
        speed: event time against the clock, counted from the first event; None as fast as can be.
        clock: the time.
        stop: ends it after the current cut.
        count: events at most.
        terminal: stderr, if a person watches.

    Raises:
        InputError: a speed that is not above 0.
        FleetcastError: from the sink.
    """
    total = len(batch) if count is None else min(count, len(batch))
    _warn_of_future(batch.take(slice(total)), clock.now_ms())
    return publish_paced(
        sink,
        [batch],
        pace=Pace(clock, speed),
        stop=stop,
        progress=Progress(clock, "replay", total, terminal),
        count=count,
    )


def _warn_of_future(batch: EventBatch, now_ms: int) -> None:
    """Say how many events lie after now: a consumer refuses those that are ahead of their append time."""
    later = len(batch) - int(np.searchsorted(batch.time, now_ms, side="right"))
    if later:
        latest = dt.datetime.fromtimestamp(int(batch.time[-1]) / 1000, dt.UTC).isoformat(timespec="seconds")
        _log.warning("events lie in the future; a consumer will refuse them", events=later, latest=latest)
