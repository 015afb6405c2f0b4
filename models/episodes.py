"""Breaches foreseen, counted: episodes, runs of alarms, and which of them belong together.

An episode of a target begins at a step whose observed mean is beyond the contract's threshold while none of the
``QUIET_STEPS`` steps before was. A forecast alarms when a breach is at least as likely as ``p`` at any step of its
horizon (p = 0.5 is the published ``first_breach_at``), and counts only outside episodes. Alarms of one server with at
most ``GAP_STEPS`` steps without alarm between them are one run.

- An episode that begins at step s is foreseen when a run stands at the forecast issued ``LEAD_STEPS`` steps before s:
  its last alarm by then is at most ``GAP_STEPS`` steps old. The warning is the time from the run's first alarm to s, at
  most the horizon: an older alarm did not speak of s. Episodes without a forecast issued then are left out.
- An alarm is confirmed where the forecast before alarms too, as the ``for`` of a Prometheus rule has it: a burst of one
  step makes one forecast alarm, and a step later it is known for what it was.
- A run is right when an episode begins while it stands or within the horizon of its first alarm. Runs whose horizon
  reaches beyond the server's last observed step are left out.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.breach import breach_probability
from schemas.batch import Floats, Ints
from schemas.contract import Contract

LEAD_STEPS, QUIET_STEPS, GAP_STEPS = 3, 12, 3

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Foresight:
    """Figures at one probability.

    Attributes:
        judged: episodes that could be foreseen. foreseen: those that were.
        runs: alarm runs seen. alarms: what they stand for in the whole time; true_alarms: those that were right.
        warning_minutes: median over the foreseen; None without any.
    """

    judged: int
    foreseen: int
    runs: int
    alarms: float
    true_alarms: float
    warning_minutes: float | None

    @property
    def recall(self) -> float | None:
        """Share of the episodes that were foreseen."""
        return self.foreseen / self.judged if self.judged else None

    @property
    def precision(self) -> float | None:
        """Share of the alarm runs that were right."""
        return self.true_alarms / self.alarms if self.alarms else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "recall": self.recall, "precision": self.precision}


Curve = dict[float, Foresight]  # by probability


def best(curve: Curve, precision: float = 0.8) -> float | None:
    """The probability of the highest recall at that precision or better; None where there is none."""
    good = [p for p, found in curve.items() if found.precision is not None and found.precision >= precision]
    return max(good, key=lambda p: (curve[p].recall or 0, p), default=None)


@dataclass(frozen=True, slots=True)
class Watched:
    """A target with a threshold. ``column``: its place among the targets."""

    name: str
    column: int
    threshold: float
    above: bool

    def beyond(self, values: NDArray[np.floating[Any]]) -> Bools:
        """[...] whether ``values`` [..., targets] are beyond it; not where nothing was observed."""
        value = values[..., self.column]
        return np.asarray(value > self.threshold if self.above else value < self.threshold, bool)

    def chance(self, quantiles: NDArray[np.float32], levels: Floats) -> Floats:
        """[B] the largest probability of a breach at any step of ``quantiles`` [B, targets, quantiles, horizon]."""
        values = quantiles[:, self.column]
        chance = breach_probability(values, levels, self.threshold, above=self.above).max(axis=-1)
        return np.where(np.isfinite(values).all(axis=(1, 2)), chance, np.nan)


def watched(contract: Contract) -> list[Watched]:
    """The targets that have a threshold."""
    return [
        Watched(field.name, column, limit, field.breaches_above)
        for column, field in enumerate(contract.targets)
        if (limit := field.threshold) is not None
    ]


def quiet(beyond: Bools) -> Bools:
    """[steps + 1] whether none of the ``QUIET_STEPS`` steps before was ``beyond`` [steps]."""
    total = np.concatenate([[0], np.cumsum(beyond)])
    before = np.maximum(np.arange(len(total)) - QUIET_STEPS, 0)
    return np.asarray(total == total[before], bool)


def beginnings(beyond: Bools) -> Ints:
    """The steps at which an episode of ``beyond`` [steps] begins."""
    return np.flatnonzero(beyond & quiet(beyond)[:-1])


def runs(alarms: Ints, every: int = 1) -> tuple[Ints, Ints]:
    """First and last alarm of each run.

    Args:
        alarms: steps at which a forecast that alarms was issued, ascending.
        every: steps from one forecast to the next.
    """
    starts = np.diff(alarms, prepend=np.iinfo(np.int64).min // 2) > GAP_STEPS + every
    return alarms[starts], alarms[np.append(starts[1:], True)[: len(starts)]]


@dataclass(frozen=True, slots=True)
class Track:
    """What is known of one server and target, steps counted from the history's first.

    Attributes:
        issued: [n] first step of each forecast. chance: [n] probability of a breach; NaN where it is withheld.
        weight: [n] how much of the whole time it stands for; 0 where it only tells whether a run stands already.
        begins: [episodes] first steps. last: the server's last observed step.
        quiet: [n] whether the forecast was issued outside episodes.
    """

    issued: Ints
    chance: Floats
    weight: Floats
    begins: Ints
    last: int
    quiet: Bools

    def confirmed(self, every: int) -> "Track":
        """The same, of alarms that this forecast and the one before agree on; NaN where there is none before."""
        lower = np.minimum(self.chance[1:], self.chance[:-1])
        both = np.append(np.nan, np.where(np.diff(self.issued) == every, lower, np.nan))[: len(self.chance)]
        return replace(self, chance=both)


@dataclass(slots=True)
class Tally:
    """Counts at one probability; tallies add up."""

    judged: int = 0
    foreseen: int = 0
    runs: int = 0
    alarms: float = 0.0
    true_alarms: float = 0.0
    warnings: tuple[int, ...] = ()

    def add(self, other: "Tally") -> None:
        """Add another's counts."""
        for name in Tally.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def foresight(self, step_seconds: int) -> Foresight:
        """The figures."""
        minutes = float(np.median(self.warnings)) * step_seconds / 60 if self.warnings else None
        return Foresight(self.judged, self.foreseen, self.runs, self.alarms, self.true_alarms, minutes)


def tally(track: Track, probability: float, horizon: int, every: int = 1) -> tuple[Tally, dict[int, int]]:
    """Count what was foreseen of one server and target; also the warning in steps of each episode judged, 0 if none."""
    alarms = track.issued[(track.chance >= probability) & track.quiet]
    first, last = runs(alarms, every)
    warnings = {int(s): _warning(int(s), alarms, first, horizon, every) for s in _judged(track, every)}
    weight = track.weight[np.searchsorted(track.issued, first)]
    weight = np.where(first + horizon - 1 <= track.last, weight, 0)
    true = _right(first, last, track.begins, horizon)
    foreseen = tuple(steps for steps in warnings.values() if steps)
    found = Tally(
        judged=len(warnings),
        foreseen=len(foreseen),
        runs=int((weight > 0).sum()),
        alarms=float(weight.sum()),
        true_alarms=float(weight[true].sum()),
        warnings=foreseen,
    )
    return found, warnings


def _judged(track: Track, every: int) -> Ints:
    """The episodes of which a forecast was issued ``LEAD_STEPS`` before, or at the last time there was one to issue."""
    told = track.issued[(track.weight > 0) & track.quiet & np.isfinite(track.chance)]
    if not len(told):
        return track.begins[:0]
    at = np.searchsorted(told, track.begins - LEAD_STEPS, side="right") - 1
    return track.begins[(at >= 0) & (track.begins - LEAD_STEPS - told[np.maximum(at, 0)] < every)]


def _warning(start: int, alarms: Ints, first: Ints, horizon: int, every: int) -> int:
    """Steps from the first alarm of the run that stands ``LEAD_STEPS`` before ``start``; 0 where none does."""
    at = int(np.searchsorted(alarms, start - LEAD_STEPS, side="right")) - 1
    if at < 0 or start - LEAD_STEPS - alarms[at] > GAP_STEPS + every - 1:
        return 0
    began = int(first[np.searchsorted(first, alarms[at], side="right") - 1])
    return min(start - began, horizon)


def _right(first: Ints, last: Ints, begins: Ints, horizon: int) -> Bools:
    """[runs] whether an episode begins while the run stands or within the horizon of its first alarm."""
    until = np.maximum(first + horizon - 1, last + GAP_STEPS + LEAD_STEPS)
    following = np.searchsorted(begins, first)
    return np.append(begins, np.iinfo(np.int64).max)[following] <= until
