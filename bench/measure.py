"""How something is measured: repeated, turn about with what it is compared with, and told with its spread.

Machines drift: a ratio is taken within a round, where both sides met the same machine, and then its median over rounds.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Samples = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of some samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """Of at least one sample.

        Raises:
            ValueError: there is none.
        """
        if not samples:
            raise ValueError("nothing was measured")
        return cls(statistics.median(samples), min(samples), max(samples))


def interleaved(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Samples]:
    """Run each of ``turns`` once a round, in their order; what each gave, a sample a round.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds measure nothing")
    found: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            found[name].append(turn())
    return {name: tuple(samples) for name, samples in found.items()}


def ratios(ours: Samples, peer: Samples) -> Samples:
    """Ours over the peer's, by round.

    Raises:
        ValueError: they are not of the same rounds.
    """
    return tuple(a / b for a, b in zip(ours, peer, strict=True))


def inverse(samples: Samples) -> Samples:
    """Seconds for one of what there are so many of a second, or the other way round."""
    return tuple(1 / s for s in samples)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rate(n: int, work: Callable[[], object]) -> Callable[[], float]:
    """A turn: how many of the ``n`` things that ``work`` does are done a second."""
    return lambda: n / seconds(work)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least ``percent`` of them do not exceed (nearest rank).

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("nothing was measured")
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]
