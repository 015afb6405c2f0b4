"""librdkafka's log while a broker is away: each client says so twenty times a second; once in a while is enough."""

import logging
import time
from collections.abc import Callable

_SECONDS = 10.0


class Seldom(logging.Filter):
    """One line of a kind in ten seconds, with the number of those left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds."""
        super().__init__()
        self._clock = clock
        self._told: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; it begins with its kind (``FAIL [thrd:...``)."""
        text = record.getMessage()
        kind, now = text.split(" ", 1)[0], self._clock()
        if now - self._told.get(kind, -_SECONDS) < _SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._told[kind] = now
        if left_out := self._left_out.pop(kind, 0):
            record.msg, record.args = f"{text} (and {left_out} lines like it)", ()
        return True
