"""Known inputs that the clock gives: scaled by fixed arithmetic to mean 0 and variance 1 over their range, not fitted.

Each takes few values (24 hours, 7 days, ...), so each is a table: rows by step, and the value of each row.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from schemas.batch import Ints
from schemas.contract import DAY_SECONDS

_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, Monday is 0
_MOST_ROWS = 2_880  # of a day's steps; a finer time of day is computed step by step


@dataclass(frozen=True, slots=True)
class Calendar:
    """The inputs that a contract names.

    Attributes:
        names: of the inputs, in the network's order; ``time_of_day`` is two of them.
        step_seconds: length of a step.
    """

    names: tuple[str, ...]
    step_seconds: int

    @classmethod
    def of(cls, known: tuple[str, ...], step_seconds: int) -> "Calendar":
        """From the contract's ``known``, which names the season's lag too."""
        names: list[str] = []
        for name in known:
            if name == "time_of_day":
                names += ["time_of_day_sin", "time_of_day_cos"]
            elif name != "season_lag":
                names.append(name)
        return cls(tuple(names), step_seconds)

    def rows(self, name: str, steps: Ints) -> Ints:
        """[...] row in ``table(name)`` of step indices since the epoch (UTC, at the step's start)."""
        seconds = steps * self.step_seconds
        days = seconds // DAY_SECONDS
        weekday = (days + _EPOCH_WEEKDAY) % 7
        match name:
            case "hour":
                return np.asarray(seconds % DAY_SECONDS // 3600)
            case "day_of_week":
                return np.asarray(weekday)
            case "month":
                return np.asarray(days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12)
            case "is_weekend":
                return np.asarray(weekday >= 5, np.int64)
            case _:
                return np.asarray(seconds % DAY_SECONDS // self._tick_seconds)

    def table(self, name: str) -> NDArray[np.float32]:
        """[rows] the input's value."""
        return _table(name, self._tick_seconds)

    def small(self, name: str) -> bool:
        """Whether the table is small enough to run the network's embedding on each of its rows."""
        return not name.startswith("time_of_day") or DAY_SECONDS // self._tick_seconds <= _MOST_ROWS

    def values(self, steps: Ints) -> NDArray[np.float32]:
        """[..., names] float32 of step indices since the epoch."""
        if not self.names:
            return np.zeros((*steps.shape, 0), np.float32)
        return np.stack([self.table(name)[self.rows(name, steps)] for name in self.names], axis=-1)

    @property
    def _tick_seconds(self) -> int:
        """The longest time whose multiples are all starts of steps within a day."""
        return int(np.gcd(self.step_seconds, DAY_SECONDS))


@cache
def _table(name: str, tick_seconds: int) -> NDArray[np.float32]:
    match name:
        case "hour":
            values = (np.arange(24) - 11.5) / 6.922
        case "day_of_week":
            values = (np.arange(7) - 3) / 2.0
        case "month":
            values = (np.arange(12) - 5.5) / 3.452
        case "is_weekend":
            values = (np.arange(2) - 2 / 7) / 0.4518
        case _:
            angle = 2 * np.pi * np.arange(0, DAY_SECONDS, tick_seconds) / DAY_SECONDS
            values = np.sqrt(2) * (np.sin(angle) if name == "time_of_day_sin" else np.cos(angle))
    table = values.astype(np.float32)
    table.flags.writeable = False
    return table
