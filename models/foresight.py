"""Breaches foreseen: how many a forecast told at least three steps ahead, how often an alarm was right, and how early.

What counts as an episode, as an alarm and as foreseen stands in ``models.episodes``.

Forecasts at every step are dear, so stretches of servers' time are drawn: first those up to one stretch before an
episode (the near ones, server by server in random order, at most half of the windows allowed), then of the others as
many as fit, at random. An alarm run weighs as much as its stretch stands for (windows of all near stretches / of the
near ones drawn; likewise the others), so precision is that of the whole time: of a fleet that breaches seldom, drawing
only around breaches would show far too few false alarms. A run belongs to the stretch of its first alarm; the few
forecasts before a stretch that tell whether a run stands already are made too. Where all stretches fit, all weights are
1 and nothing is estimated.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.baselines import observed
from models.episodes import (
    GAP_STEPS,
    Bools,
    Curve,
    Foresight,
    Tally,
    Track,
    Watched,
    beginnings,
    best,
    quiet,
    tally,
    watched,
)
from models.samples import History, Samples
from models.told import told
from schemas.batch import Floats, Ints
from schemas.errors import DataError, InputError
from schemas.history import INCIDENTS

PROBABILITIES = tuple(twentieth / 20 for twentieth in range(2, 19))
PUBLISHED = 0.5
BREACH_WINDOWS = 20_000
NO_KIND = "none"  # an episode within no labelled incident
_SHORTEST_STRETCH = 48
_DRAW_SEED = 0

Forecast = Callable[[Samples], NDArray[np.float32]]  # [B, targets, quantiles, horizon]; NaN where it is withheld


@dataclass(frozen=True, slots=True)
class Breaches:
    """Breaches foreseen.

    Attributes:
        windows, servers: forecast for it. share: of the windows that could have been.
        episodes: that began in the judged time, by target, whether or not they were drawn.
        targets: by target that has a threshold, figures by probability. total: of all of them together.
        confirmed: those of ``total`` with alarms that the forecast before agrees with.
        kinds: by kind of labelled incident, figures at the published probability (of recall only).
    """

    windows: int
    servers: int
    share: float
    episodes: dict[str, int]
    targets: dict[str, Curve]
    total: Curve
    confirmed: Curve
    kinds: dict[str, Foresight]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the probabilities become text."""

        def plain(curve: Curve) -> dict[str, Any]:
            return {f"{p:g}": found.to_json() for p, found in curve.items()}

        of_kinds = ("judged", "foreseen", "recall", "warning_minutes")
        return {
            "windows": self.windows, "servers": self.servers, "share": self.share, "published": PUBLISHED,
            "episodes": self.episodes,
            "targets": {name: plain(curve) for name, curve in self.targets.items()},
            "total": plain(self.total),
            "confirmed": plain(self.confirmed),
            "best_at_precision_80": best(self.total),
            "best_confirmed_at_precision_80": best(self.confirmed),
            "kinds": {k: {name: found.to_json()[name] for name in of_kinds} for k, found in self.kinds.items()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Incidents:
    """``n`` labelled incidents as columns [n]; times in ms since the epoch."""

    server: list[str]
    kind: list[str]
    lead_in_start: Ints
    end: Ints

    def at(self, server: str, start_ms: int, end_ms: int) -> str:
        """The kind of the first incident of ``server`` that touches that time."""
        for i in np.flatnonzero((self.lead_in_start < end_ms) & (self.end >= start_ms)):
            if self.server[i] == server:
                return self.kind[i]
        return NO_KIND


def incidents_beside(data: Path) -> Incidents | None:
    """The labels in the folder that ``data`` is or lies in; None where there are none."""
    file = (data if data.is_dir() else data.parent) / INCIDENTS
    return read_incidents(file) if file.is_file() else None


def read_incidents(path: Path) -> Incidents:
    """The labels as ``generate`` writes them.

    Raises:
        DataError: it is not such a file.
    """
    try:
        table = pq.read_table(path, columns=["server_id", "kind", "lead_in_start", "end"])
        times = [
            table[n].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()).to_numpy() for n in ("lead_in_start", "end")
        ]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} holds no incidents as `generate` writes them: {error}") from None
    return Incidents(table["server_id"].to_pylist(), table["kind"].to_pylist(), *times)


def judge_breaches(
    history: History,
    candidates: Samples,
    forecast: Forecast,
    *,
    most: int = BREACH_WINDOWS,
    incidents: Incidents | None = None,
) -> Breaches:
    """Draw stretches, forecast each of their windows, and count.

    Args:
        history: the truth.
        candidates: windows of the time that is judged; those of steps at which no forecast is published are left out.
        forecast: what is published for a block of them.
        most: how many are forecast at most (the few before a stretch aside).
        incidents: labels, where there are any.

    Raises:
        DataError: nothing is left to forecast.
        InputError: no target has a threshold.
    """
    settings, targets = history.contract.settings, watched(history.contract)
    if not targets:
        raise InputError("no target of the contract has breach_above or breach_below: there is no breach to foresee")
    samples = candidates.take((candidates.step + 1) % settings.forecast_every_steps == 0)
    if not len(samples):
        raise DataError("no forecast is published in the time to be judged")
    truth = _Truth(history, targets, np.unique(samples.slot), int(samples.step.min()) + 1)
    available = len(samples)
    stretch = max(settings.horizon_steps, _SHORTEST_STRETCH)
    weight, made = _draw(samples, truth, stretch, GAP_STEPS + settings.forecast_every_steps, most)
    samples, weight = samples.take(made), weight[made]
    chances = _chances(samples, forecast, targets, np.array(settings.quantiles))
    totals = {target.name: {p: Tally() for p in PROBABILITIES} for target in targets}
    confirmed = {p: Tally() for p in PROBABILITIES}
    kinds: dict[str, Tally] = {}
    for slot in np.unique(samples.slot).tolist():
        rows = np.flatnonzero(samples.slot == slot)
        rows = rows[np.argsort(samples.step[rows])]
        for i, target in enumerate(targets):
            track = truth.track(slot, i, samples.step[rows] + 1, chances[i, rows], weight[rows])
            for p in PROBABILITIES:
                found, warnings = tally(track, p, settings.horizon_steps, settings.forecast_every_steps)
                totals[target.name][p].add(found)
                twice = track.confirmed(settings.forecast_every_steps)
                confirmed[p].add(tally(twice, p, settings.horizon_steps, settings.forecast_every_steps)[0])
                if p == PUBLISHED and incidents is not None:
                    _add_kinds(kinds, incidents, history, slot, {s + truth.first: w for s, w in warnings.items()})
    total = {p: _together(by_p[p] for by_p in totals.values()) for p in PROBABILITIES}
    seconds = settings.step_seconds
    return Breaches(
        windows=len(samples),
        servers=len(np.unique(samples.slot)),
        share=len(samples) / available,
        episodes={target.name: truth.episodes(i) for i, target in enumerate(targets)},
        targets={name: {p: t.foresight(seconds) for p, t in by_p.items()} for name, by_p in totals.items()},
        total={p: t.foresight(seconds) for p, t in total.items()},
        confirmed={p: t.foresight(seconds) for p, t in confirmed.items()},
        kinds={kind: kinds[kind].foresight(seconds) for kind in sorted(kinds)},
    )


class _Truth:
    """What happened to each server, steps counted from the history's ``first``."""

    def __init__(self, history: History, targets: Sequence[Watched], slots: Ints, judged_from: int) -> None:
        """``judged_from``: the first step that is judged."""
        self.first = int(history.step.min())
        self._from = judged_from - self.first
        self._last: dict[int, int] = {}
        self._begins: dict[tuple[int, int], Ints] = {}
        self._quiet: dict[tuple[int, int], Bools] = {}
        for slot in slots.tolist():
            values = observed(history, slot)
            self._last[slot] = int(np.flatnonzero(np.isfinite(values).any(axis=1)).max(initial=0))
            for i, target in enumerate(targets):
                beyond = target.beyond(values)
                begins = beginnings(beyond)
                self._begins[slot, i] = begins[begins >= self._from]
                self._quiet[slot, i] = quiet(beyond)

    def episodes(self, target: int) -> int:
        """How many of that target began in the time that is judged."""
        return sum(len(begins) for (_, i), begins in self._begins.items() if i == target)

    def near(self, stretch: int) -> Iterator[tuple[int, int, int]]:
        """Server, first and last step of the ``stretch`` before each episode; steps since the epoch."""
        for (slot, _), begins in self._begins.items():
            for begin in (begins + self.first).tolist():
                yield slot, begin - stretch, begin - 1

    def track(self, slot: int, target: int, issued: Ints, chance: Floats, weight: Floats) -> Track:
        """``issued`` in steps since the epoch."""
        at = issued - self.first
        quiet_then = self._quiet[slot, target][at]
        return Track(at, chance, weight, self._begins[slot, target], self._last[slot], quiet_then)


def _draw(samples: Samples, truth: _Truth, stretch: int, before: int, most: int) -> tuple[Floats, Bools]:
    """Weight [n] of each window, 0 outside the stretches drawn, and [n] whether it is to be forecast.

    ``before``: those up to so many steps before a stretch are to be forecast too.
    """
    issued = samples.step + 1
    start, blocks = int(issued.min()), int(np.ptp(issued)) // stretch + 2

    def stretches(slot: Ints | int, step: Ints) -> Ints:
        return np.asarray(slot * blocks + (step - start) // stretch, np.int64)

    own, at, sizes = np.unique(stretches(samples.slot, issued), return_inverse=True, return_counts=True)
    ends = [stretches(slot, np.array([first, last]).clip(start)) for slot, first, last in truth.near(stretch)]
    near = np.isin(own, np.concatenate(ends) if ends else [])
    rng = np.random.default_rng(_DRAW_SEED)
    order, rank = rng.permutation(len(own)), rng.permutation(int(samples.slot.max()) + 1)
    by_server = np.argsort(rank[own // blocks], kind="stable")
    weight = np.zeros(len(own))
    room = most if sizes.sum() <= most else max(most // 2, 1)
    for group in (by_server[near[by_server]], order[~near[order]]):
        drawn = group[: max(int((np.cumsum(sizes[group]) <= room).sum()), 1)]
        weight[drawn] = sizes[group].sum() / max(int(sizes[drawn].sum()), 1)
        room = most - int(sizes[weight > 0].sum())
    made = weight[at] > 0
    for ahead in range(1, before + 1):
        made |= np.isin(stretches(samples.slot, issued + ahead), own[weight > 0])
    return weight[at], made


def _chances(samples: Samples, forecast: Forecast, targets: Sequence[Watched], levels: Floats) -> Floats:
    """[watched targets, n] probability of a breach, a block at a time."""
    chances = np.full((len(targets), len(samples)), np.nan)
    for rows in told("foreseeing", len(samples)):
        quantiles = forecast(samples.take(rows))
        for i, target in enumerate(targets):
            chances[i, rows] = target.chance(quantiles, levels)
    return chances


def _together(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for each in tallies:
        total.add(each)
    return total


def _add_kinds(
    kinds: dict[str, Tally], incidents: Incidents, history: History, slot: int, warnings: dict[int, int]
) -> None:
    """Add episodes, by first step since the epoch, to the incident's kind that they belong to."""
    step_ms = history.contract.step_ms
    for step, steps in warnings.items():
        kind = incidents.at(history.keys[slot], step * step_ms, (step + 1) * step_ms)
        kinds.setdefault(kind, Tally()).add(Tally(1, int(steps > 0), warnings=(steps,) if steps else ()))
