"""From batches in time order to a paced stream: the loop that the simulator and the replay share."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from producer.pacing import Pace
from producer.progress import Progress
from schemas.batch import EventBatch

_CUT_ROWS = 5_000  # events published between two looks at the clock and at stop


class Sink(Protocol):
    """Where events go (`producer.publish.Publisher`)."""

    def publish(self, batch: EventBatch) -> int:
        """Take a batch; how many of its events were taken (fewer than all only on stop)."""

    def flush(self) -> None:
        """Return when all events are safe."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a run published: events, and the times of the first and the last (None where there were none)."""

    rows: int
    first_ms: int | None
    last_ms: int | None


def publish_paced(
    sink: Sink,
    batches: Iterable[EventBatch],
    *,
    pace: Pace,
    stop: threading.Event,
    progress: Progress,
    count: int | None = None,
) -> Published:
    """Publish batches when they are due, until they end, ``count`` is reached or ``stop`` is set; then flush.

    Args:
        sink: where to.
        batches: in time order, within each and from one to the next.
        pace: when they are due.
        stop: ends it after the current cut.
        progress: told of each cut.
        count: events at most; None for all.

    Raises:
        FleetcastError: from the sink.
    """
    rows, first, last = 0, None, None
    try:
        for batch in batches:
            begin = 0
            end = len(batch) if count is None else min(len(batch), count - rows)
            while begin < end and pace.wait_for(int(batch.time[begin]), stop):
                due = int(np.searchsorted(batch.time, pace.reached_ms(), side="right"))
                cut = min(max(due, begin + 1), begin + _CUT_ROWS, end)
                taken = sink.publish(batch.take(slice(begin, cut)))
                if taken:
                    first = int(batch.time[begin]) if first is None else first
                    last = int(batch.time[begin + taken - 1])
                    progress.add(taken, last)
                rows, begin = rows + taken, begin + taken
            if begin < end or rows == count:  # stopped, or enough
                break
        sink.flush()
    finally:
        progress.close()
    return Published(rows, first, last)
