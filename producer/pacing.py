"""When an event is due: event time against the clock, at a speed."""

import math
import threading
import time
from typing import Protocol

from schemas.errors import InputError


class Clock(Protocol):
    """Time, injected."""

    def now_ms(self) -> int:
        """Wall-clock time in ms since the epoch."""

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after ``seconds``, or when ``stop`` is set."""


class SystemClock:
    """The machine's time."""

    def now_ms(self) -> int:
        """As `Clock.now_ms`."""
        return time.time_ns() // 1_000_000

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """As `Clock.wait`."""
        stop.wait(seconds)


class Pace:
    """Event time passes ``speed`` times as fast as the clock, once its free part is over."""

    def __init__(
        self, clock: Clock, speed: float | None, *, never_ahead: bool = False, free_until_ms: int | None = None
    ) -> None:
        """Nothing has passed yet.

        Args:
            clock: the time.
            speed: seconds of event time a second; None as fast as can be.
            never_ahead: no event is due before its own time, so at the present every speed becomes 1.
            free_until_ms: events before it are due at once; the first one after it is too, and from it time counts.

        Raises:
            InputError: a speed that is not above 0.
        """
        if speed is not None and not 0 < speed < math.inf:
            raise InputError(f"speed: {speed:g} is not above 0 (or `max`)")
        self._clock, self._speed, self._never_ahead, self._free_until_ms = clock, speed, never_ahead, free_until_ms
        self._anchor: tuple[int, int] | None = None  # the clock's time at which an event time was due

    def wait_for(self, event_ms: int, stop: threading.Event) -> bool:
        """Wait until an event is due; False where ``stop`` was set instead."""
        while not stop.is_set():
            left_ms = self._due_ms(event_ms) - self._clock.now_ms()
            if left_ms <= 0:
                return True
            # In parts: a clock that is set meanwhile is noticed.
            self._clock.wait(min(left_ms / 1000, 60.0), stop)
        return False

    def reached_ms(self) -> float:
        """The latest event time that is due by now."""
        now = self._clock.now_ms()
        reached = math.inf
        if self._speed is not None and self._anchor is not None:
            wall, event = self._anchor
            reached = event + (now - wall) * self._speed
        elif self._speed is not None and self._free_until_ms is not None:
            reached = self._free_until_ms - 1
        return min(reached, now) if self._never_ahead else reached

    def _due_ms(self, event_ms: int) -> float:
        own = float(event_ms) if self._never_ahead else -math.inf
        if self._speed is None or (self._free_until_ms is not None and event_ms < self._free_until_ms):
            return own
        if self._anchor is None:
            self._anchor = (self._clock.now_ms(), event_ms)
        wall, event = self._anchor
        return max(wall + (event_ms - event) / self._speed, own)
