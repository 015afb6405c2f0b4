"""Servers that join and leave: a server that is replaced is away for hours or days, then another machine has its name.

A replaceable server has one life after the other, each of its own fixed length: at first it is there, at last it is
away. So its presence is a function of seed, server and time, as everything else is.
"""

import numpy as np
from numpy.typing import NDArray

from producer.noise import Noise
from producer.profiles import GROUP_SIZE
from schemas.batch import Floats, Ints

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
SHARE = 0.1  # of the servers are replaceable
LIFE_DAYS = (7.0, 28.0)
AWAY_HOURS = (4.0, 96.0)


class Lives:
    """Which servers are there when.

    Attributes:
        members: [M] the replaceable servers. None in a healthy fleet; none of the first group, so that a small fleet,
            the default, is complete at any time.
    """

    def __init__(self, seed: int, servers: int, scenario: str) -> None:
        everyone = np.arange(servers)
        replaceable = Noise(seed, everyone).uniform("replaceable") < (0.0 if scenario == "healthy" else SHARE)
        self.members = everyone[replaceable & (everyone >= GROUP_SIZE)]
        self._servers = servers
        self._noise = Noise(seed, self.members)
        self._length = (self._noise.between("life length", *LIFE_DAYS) * DAY_MS).astype(np.int64)
        self._phase = (self._noise.uniform("life phase") * self._length).astype(np.int64)

    def present(self, time_ms: Ints) -> NDArray[np.bool_]:
        """[T, S] whether a server is there."""
        there = np.ones((len(time_ms), self._servers), bool)
        there[:, self.members] = ~self._at(time_ms[:, None])[1]
        return there

    def machine(self, stream: str, time_ms: Ints) -> Floats:
        """[T, M] uniform in [-1, 1): how the present machine differs from the one before."""
        drawn: Floats = 2.0 * self._noise.uniform(stream, self._at(time_ms[:, None])[0]) - 1.0
        return drawn

    def away_between(self, server: Ints, start_ms: Ints, end_ms: Ints) -> NDArray[np.bool_]:
        """[n] whether a server is away at any time of an interval shorter than a life; all [n]."""
        result = np.zeros(len(server), bool)
        rows = np.nonzero(np.isin(server, self.members))[0]
        member = np.searchsorted(self.members, server[rows])
        everyone = np.arange(len(self.members))
        before, _ = self._at(np.broadcast_to(start_ms[rows, None], (len(rows), len(everyone))))
        after, away = self._at(np.broadcast_to(end_ms[rows, None], (len(rows), len(everyone))))
        # A life ends with the absence: another life at the end of the interval means one in between.
        missing = (before != after) | away
        result[rows] = missing[np.arange(len(rows)), member]
        return result

    def _at(self, time_ms: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """The number of each member's life, and whether it is away: [.., M] both; ``time_ms``: [T, 1] or [T, M]."""
        life, age = np.divmod(time_ms + self._phase, self._length)
        low, high = AWAY_HOURS
        drawn = self._noise.uniform("away", life)
        away_ms = ((low + (high - low) * drawn * drawn) * HOUR_MS).astype(np.int64)
        return life, age >= self._length - away_ms
