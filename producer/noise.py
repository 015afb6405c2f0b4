"""Random numbers by position: a function of (seed, stream, server, counter), not of what was drawn before.

So any server at any time has the same values, however the time is chunked and however many servers there are. Only
integer arithmetic and +, -, *, /, sqrt, floor are used: IEEE 754 rounds these exactly, so the values are the same bytes
on every machine, whichever vector instructions it has.
"""

import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

from schemas.batch import Floats, Ints

Words = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = (1 << 64) - 1
# Sum of four 16-bit uniforms (Irwin-Hall): mean and standard deviation.
_SUM_MEAN, _SUM_STD = 131_070.0, float(np.sqrt(4 * (65_536.0**2 - 1) / 12))


def _mix(word: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators")."""
    word = word ^ (word >> np.uint64(30))
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return word


class Noise:
    """Streams of random numbers for a list of ids (servers, or groups of servers)."""

    def __init__(self, seed: int, ids: Ints) -> None:
        """``ids``: [S] whole numbers; each id's numbers depend on the id, not on its place."""
        self._seed = seed & _MASK
        self._ids = ids.astype(np.uint64)
        self.key = cache(self._key)

    def _key(self, stream: str) -> Words:
        """[S] start states of a stream."""
        salt = np.array([self._seed, zlib.crc32(stream.encode())], np.uint64)
        start = _mix(_mix(salt[:1] + _GOLDEN) ^ (salt[1:] * _GOLDEN))
        return _mix(start + self._ids * _GOLDEN)

    def words(self, stream: str, counter: Ints) -> Words:
        """64 random bits for each counter: [S], [T, 1] or [T, S] to [.., S]."""
        return _mix(self.key(stream) + counter.astype(np.uint64) * _GOLDEN)

    def uniform(self, stream: str, counter: Ints | int = 0) -> Floats:
        """Uniform in [0, 1): as `words`."""
        bits = self.words(stream, np.asarray(counter)) >> np.uint64(11)
        return bits.astype(np.float64) * 2.0**-53

    def between(self, stream: str, low: float | Floats, high: float | Floats) -> Floats:
        """[S] one uniform number an id, between ``low`` and ``high``."""
        return low + (high - low) * self.uniform(stream)

    def white(self, stream: str, counter: Ints) -> Floats:
        """Near normal (mean 0, variance 1, at most 3.5 in size), independent for each counter: as `words`."""
        word = self.words(stream, counter)
        low = np.uint64(0xFFFF)
        total = (word & low) + ((word >> np.uint64(16)) & low) + ((word >> np.uint64(32)) & low)
        total += word >> np.uint64(48)
        value: Floats = (total.astype(np.float64) - _SUM_MEAN) / _SUM_STD
        return value

    def smooth(self, stream: str, time_ms: Ints, period_s: float) -> Floats:
        """[T, S] continuous in time: value noise on a grid of ``period_s``, variance 1 at every point."""
        position = time_ms[:, None] / (period_s * 1000.0) + self.uniform(f"{stream} phase")
        knot = np.floor(position)
        part = position - knot
        at = knot.astype(np.int64)
        right = part * part * (3.0 - 2.0 * part)
        left = 1.0 - right
        value = left * self.white(stream, at) + right * self.white(stream, at + 1)
        value /= np.sqrt(left * left + right * right)
        return value

    def wander(self, stream: str, time_ms: Ints, periods_s: tuple[float, ...]) -> Floats:
        """[T, S] autocorrelated noise of variance 1: equal parts of `smooth` at several scales of time."""
        total = self.smooth(f"{stream} 0", time_ms, periods_s[0])
        for i, period in enumerate(periods_s[1:], 1):
            total += self.smooth(f"{stream} {i}", time_ms, period)
        total /= np.sqrt(float(len(periods_s)))
        return total

    def levels(self, stream: str, time_ms: Ints, period_s: float) -> Floats:
        """[T, S] constant but for jumps, one somewhere in each ``period_s``: variance 1 at every point."""
        position = time_ms[:, None] / (period_s * 1000.0) + self.uniform(f"{stream} phase")
        slot = np.floor(position)
        at = slot.astype(np.int64)
        before = position - slot < self.uniform(f"{stream} jump", at)
        return self.white(stream, at - before)

    def bursts(self, stream: str, time_ms: Ints, slot_s: float, chance: Floats) -> Floats:
        """[T, S] mostly 0, with rare, short, heavy-tailed peaks: at most one in each ``slot_s``.

        A peak is as long as a twentieth of the slot or more, mostly short; it is 1 or higher and decays to half. Half
        of all are above 2, one in a hundred above 100; none is above 200.

        Args:
            stream: its name.
            time_ms: [T].
            slot_s: seconds.
            chance: [S] 0..1, of a peak in a slot.
        """
        position = time_ms[:, None] / (slot_s * 1000.0) + self.uniform(f"{stream} phase")
        slot = np.floor(position)
        word = self.words(stream, slot.astype(np.int64))
        value = np.zeros(word.shape)
        at = np.nonzero((word >> np.uint64(48)) < (chance * 65_536.0).astype(np.uint64))
        word, part = word[at], (position - slot)[at]
        start, length, rarity = ((_sixteen(word, shift) + 0.5) / 65_536.0 for shift in (0, 16, 32))
        length = 0.05 + 0.85 * length * length
        done = (part - start * (1.0 - length)) / length
        height = np.minimum(1.0 / rarity, 200.0)
        value[at] = np.where((done >= 0.0) & (done < 1.0), height * (1.0 - 0.5 * done), 0.0)
        return value


def _sixteen(word: Words, shift: int) -> Floats:
    """Sixteen of the random bits, as a number."""
    return ((word >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.float64)


def sawtooth(time_ms: Ints, period_s: Floats, phase: Floats) -> Floats:
    """[T, S] rising from 0 to 1 in each period; ``period_s``: [S], ``phase`` (in periods): [S] or [T, S]."""
    position = time_ms[:, None] / (period_s * 1000.0) + phase
    position -= np.floor(position)
    return position
