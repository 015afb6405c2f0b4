"""The fleet as a live stream."""

import itertools
import threading
from collections.abc import Iterator
from typing import TextIO

from producer.fleet import Fleet, first_tick_ms
from producer.pacing import Clock, Pace
from producer.progress import Progress
from producer.stream import Published, Sink, publish_paced
from schemas.batch import EventBatch
from schemas.errors import InputError

_ROWS_AHEAD = 20_000  # events computed at once: enough for numpy, little for memory


def simulate(
    sink: Sink,
    fleet: Fleet,
    *,
    start_ms: int,
    until_ms: int | None,
    speed: float | None,
    interval_s: float,
    clock: Clock,
    stop: threading.Event,
    encoder_s: float | None = None,
    count: int | None = None,
    terminal: TextIO | None = None,
) -> Published:
    """Publish the fleet's events tick by tick, until ``until_ms``, ``count`` or ``stop``; then flush.

    Args:
        sink: where to.
        fleet: whose.
        start_ms: the first tick is the first multiple of the interval at or after it.
        until_ms: no event at or after it; None for ever.
        speed: event time against the clock; None as fast as can be. No event is published before its own time, so at
            the present every speed becomes 1.
        interval_s: seconds of event time between a server's samples.
        clock: the time.
        stop: ends it after the current batch.
        encoder_s: so many seconds of event time are published at once, so that a consumer can forecast soon; by default
            the contract's encoder.
        count: events at most.
        terminal: stderr, if a person watches.

    Raises:
        InputError: a speed or interval that is not above 0.
        FleetcastError: from the sink.
    """
    if not interval_s >= 0.001:
        raise InputError(f"interval: {interval_s:g} s is too short")
    settings = fleet.contract.settings
    burst_s = settings.encoder_steps * settings.step_seconds if encoder_s is None else encoder_s
    first = first_tick_ms(start_ms, interval_s)
    ticks = None if until_ms is None else max(0, -(-(until_ms - first) // round(interval_s * 1000)))
    limits = [n for n in (count, None if ticks is None else ticks * len(fleet)) if n is not None]
    return publish_paced(
        sink,
        _batches(fleet, first, interval_s, ticks),
        pace=Pace(clock, speed, never_ahead=True, free_until_ms=first + round(burst_s * 1000)),
        stop=stop,
        progress=Progress(clock, "simulate", min(limits, default=None), terminal),
        count=count,
    )


def _batches(fleet: Fleet, first_ms: int, interval_s: float, ticks: int | None) -> Iterator[EventBatch]:
    """The fleet's events from a tick on, some ticks at a time; for ever where ``ticks`` is None."""
    at_once = max(1, _ROWS_AHEAD // len(fleet))
    for tick in itertools.count(0, at_once):
        wanted = at_once if ticks is None else min(at_once, ticks - tick)
        if wanted <= 0:
            return
        yield fleet.metrics(first_ms + tick * round(interval_s * 1000), interval_s, wanted)
