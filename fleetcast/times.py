"""Times on the command line: ISO (naive is UTC), or an offset from now such as ``-25h``."""

import datetime as dt
import re
import time
from collections.abc import Callable

import click

_OFFSET = re.compile(r"([+-])(\d+(?:\.\d+)?)(s|m|h|d)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_END_MS = 253_402_300_800_000  # the year 10000


def parse_time(text: str, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> int:
    """Milliseconds since the epoch.

    Raises:
        ValueError: it is neither, or not within the years 1970 to 9999.
    """
    moment_ms = _parse(text.strip(), now_ms)
    if not 0 <= moment_ms < _END_MS:
        raise ValueError("does not lie within the years 1970 to 9999")
    return round(moment_ms)


def _parse(text: str, now_ms: Callable[[], int]) -> float:
    if offset := _OFFSET.match(text):
        sign = -1 if offset[1] == "-" else 1
        return now_ms() + sign * float(offset[2]) * _SECONDS[offset[3]] * 1000
    if text == "now":
        return now_ms()
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is neither an ISO time nor an offset such as -25h") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return moment.timestamp() * 1000


class Time(click.ParamType[int]):
    """Click's view of ``parse_time``."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since the epoch."""
        if isinstance(value, int):
            return value
        try:
            return parse_time(str(value))
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


class Speed(click.ParamType[float | str]):
    """A factor, or ``max`` (None)."""

    name = "speed"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """The factor; ``max`` stays, since click takes None for 'not given'."""
        if value == "max":
            return "max"
        try:
            factor = float(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a number nor max", param, ctx)
        if not 0 < factor < float("inf"):
            self.fail(f"{value} is not a positive factor", param, ctx)
        return factor


def factor(speed: float | str) -> float | None:
    """None for ``max``."""
    return None if isinstance(speed, str) else speed
