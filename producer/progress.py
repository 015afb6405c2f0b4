"""How far a run has come, on stderr: one line that renews itself on a terminal, else a log line now and then."""

import datetime as dt
from typing import Any, TextIO

import structlog

from producer.pacing import Clock

_TERMINAL_MS, _LOG_MS = 200, 5_000
_log = structlog.get_logger()


class Progress:
    """Counts events and tells rows/s and, where the total is known, the time left."""

    def __init__(self, clock: Clock, what: str, total: int | None = None, stream: TextIO | None = None) -> None:
        """``stream``: written to only if it is a terminal; ``total``: events there will be."""
        self._clock, self._what, self._total = clock, what, total
        self._terminal = stream if stream is not None and stream.isatty() else None
        self._start_ms = self._told_ms = clock.now_ms()
        self.done = 0

    @property
    def rate(self) -> float:
        """Events a second since the start."""
        return self.done * 1000 / max(self._clock.now_ms() - self._start_ms, 1)

    @property
    def left_s(self) -> float | None:
        """Seconds left at the rate so far; None where nobody can know."""
        return None if self._total is None or not self.done else (self._total - self.done) / self.rate

    def add(self, count: int, event_ms: int) -> None:
        """``count`` more events were published, up to the event time ``event_ms``."""
        self.done += count
        now = self._clock.now_ms()
        if now - self._told_ms >= (_LOG_MS if self._terminal is None else _TERMINAL_MS):
            self._told_ms = now
            self._tell(event_ms)

    def close(self) -> None:
        """Tell the outcome."""
        if self._terminal is not None and self.done:
            self._terminal.write("\r\x1b[K")
            self._terminal.flush()
        seconds = (self._clock.now_ms() - self._start_ms) / 1000
        _log.info(f"{self._what} ended", rows=self.done, seconds=round(seconds, 1), rows_per_second=round(self.rate))

    def _tell(self, event_ms: int) -> None:
        left = self.left_s
        if self._terminal is None:
            facts: dict[str, Any] = {"rows": self.done, "rows_per_second": round(self.rate), "at": _iso(event_ms)}
            if left is not None:
                facts |= {"of": self._total, "seconds_left": round(left)}
            _log.info(self._what, **facts)
            return
        share = "" if self._total is None else f" of {self._total:,} ({self.done / max(self._total, 1):.0%})"
        ends = "" if left is None else f", {_duration(left)} left"
        line = f"{self._what}: {self.done:,}{share} rows, {self.rate:,.0f} rows/s, at {_iso(event_ms)}{ends}"
        self._terminal.write(f"\r{line}\x1b[K")
        self._terminal.flush()


def _iso(time_ms: int) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).isoformat(timespec="seconds")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
