"""What an evaluation says, and the sums that its scores come from.

Pinball loss: Koenker & Bassett, "Regression Quantiles", 1978. MASE: Hyndman & Koehler, "Another look at measures of
forecast accuracy", 2006. Skill is 1 - error / error of the better baseline.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.foresight import Breaches
from schemas.batch import Floats
from schemas.contract import Contract

HORIZONS = (1, 3, 12)
MODEL, PERSISTENCE, SEASONAL_NAIVE, BOOSTING = "model", "persistence", "seasonal_naive", "gradient_boosting"
FORECASTERS = (MODEL, PERSISTENCE, SEASONAL_NAIVE)  # always judged; gradient boosting where it is asked for


@dataclass(frozen=True, slots=True)
class Score:
    """Means over observed (window, step) pairs; None where there is none, or where no quantile gives the figure.

    Attributes:
        mae: of the median, in the target's unit.
        pinball: over the contract's quantiles, in the target's unit.
        coverage80: share of truths within the quantiles 0.1 and 0.9, bounds included.
        mase: of the median, each error over its server's own seasonal difference (``baselines.seasonal_scale``);
            pairs of servers where that is 0 or unknown are left out.
    """

    mae: float | None
    pinball: float | None
    coverage80: float | None
    mase: float | None = None


Scores = dict[str, dict[str, dict[str, Score]]]  # by target, horizon in steps or "all", and forecaster


@dataclass(frozen=True, slots=True)
class Group:
    """Scores of some of the servers.

    Attributes:
        windows, servers: judged. targets: as ``Evaluation.targets``.
    """

    windows: int
    servers: int
    targets: Scores


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Figures by step of the horizon; NaN where nothing was observed or a forecaster gives nothing.

    Attributes:
        mae, pinball: by forecaster, [targets, horizon] in the target's unit.
        coverage80: [targets, horizon] of the model.
        reliability: [targets, quantiles] share of truths at or below each of the model's quantiles, over all steps.
    """

    mae: dict[str, Floats]
    pinball: dict[str, Floats]
    coverage80: Floats
    reliability: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One forecast to look at.

    Attributes:
        kind: "best", "median" or "worst" by pinball over the window's mean absolute one-step difference.
        server, issued_at (ms since the epoch), target: which forecast.
        past: [encoder] what the model saw, in time order; NaN before a short window's first step.
        truth: [horizon] what came; NaN where nothing was observed.
        quantiles: [quantiles, horizon] as published.
        pinball: mean over observed steps, in the target's unit.
    """

    kind: str
    server: str
    issued_at: int
    target: str
    past: Floats
    truth: Floats
    quantiles: Floats
    pinball: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores, and what they rest on.

    Attributes:
        model_version: None for a model that was not saved yet.
        windows: judged; candidates: that could have been. withheld: left out for all, as the model's output was not
            finite.
        servers: of the windows judged.
        first_issued_at, last_issued_at: of the windows judged, in ms since the epoch.
        refused: events that were not valid or late, by stage.
        targets: scores by target, horizon in steps or "all", and forecaster.
        groups: "seen" (servers that were trained on) and "unseen", as far as the artifact tells and both were judged.
        breaches: how many were foreseen, where it was asked for.
        curves, examples: for plots, not in the JSON.
    """

    model_version: str | None
    windows: int
    candidates: int
    withheld: int
    servers: int
    first_issued_at: int
    last_issued_at: int
    refused: dict[str, int]
    targets: Scores
    groups: dict[str, Group] = field(default_factory=dict)
    breaches: Breaches | None = None
    curves: Curves | None = field(default=None, compare=False)
    examples: tuple[Example, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, times as ISO text; ``groups`` and ``breaches`` only where there are any."""
        names = ("model_version", "windows", "candidates", "withheld", "servers")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["first_issued_at"], found["last_issued_at"] = iso(self.first_issued_at), iso(self.last_issued_at)
        found["refused"] = dict(self.refused)
        found["targets"] = _plain(self.targets)
        if self.groups:
            found["groups"] = {
                name: {"windows": group.windows, "servers": group.servers, "targets": _plain(group.targets)}
                for name, group in self.groups.items()
            }
        if self.breaches is not None:
            found["breaches"] = self.breaches.to_json()
        return found


def _plain(scores: Scores) -> dict[str, Any]:
    return {
        target: {h: {who: asdict(score) for who, score in by_who.items()} for h, by_who in horizons.items()}
        for target, horizons in scores.items()
    }


class Sums:
    """Sums over windows of each forecaster's losses: [forecaster, target, step] float64.

    A forecaster that gives NaN at a step of any window has no figure at that step.
    """

    def __init__(self, contract: Contract, forecasters: Sequence[str] = FORECASTERS) -> None:
        """Nothing added yet; ``forecasters`` names those of ``add``, the model first."""
        self.windows = 0
        self._contract, self._forecasters = contract, tuple(forecasters)
        self._levels = np.array(contract.settings.quantiles)
        shape = (len(self._forecasters), len(contract.targets), contract.settings.horizon_steps)
        self._absolute, self._pinball, self._covered, self._scaled = (np.zeros(shape) for _ in range(4))
        self._count, self._scaled_count = (np.zeros(shape[1:], np.int64) for _ in range(2))
        self._below = np.zeros((shape[1], len(self._levels)), np.int64)

    def add(self, forecasts: Sequence[NDArray[Any]], truth: NDArray[np.float32], scale: Floats) -> None:
        """Add windows.

        Args:
            forecasts: by forecaster, [B, targets, quantiles or 1, horizon].
            truth: [B, targets, horizon]; NaN where nothing was observed.
            scale: [B, targets] seasonal difference of each window's server; NaN where it has none.
        """
        seen = np.isfinite(truth)
        true = truth.astype(np.float64)
        known = seen & np.isfinite(scale)[..., None]
        levels = self._levels[:, None]
        self.windows += len(true)
        self._count += seen.sum(axis=0)
        self._scaled_count += known.sum(axis=0)
        for i, forecast in enumerate(forecasts):
            values = np.broadcast_to(forecast, (*true.shape[:2], len(levels), true.shape[2])).astype(np.float64)
            self._pinball[i] += _sum(pinball(true, values, self._levels), seen)
            median, low, high = (quantile_at(values, self._levels, level) for level in (0.5, 0.1, 0.9))
            if median is not None:
                error = np.abs(true - median)
                self._absolute[i] += _sum(error, seen)
                self._scaled[i] += _sum(error / scale[..., None], known)
            if low is not None and high is not None:
                inside = np.where(np.isnan(low), np.nan, (low <= true) & (true <= high))
                self._covered[i] += _sum(inside, seen)
            if i == 0:
                self._below += ((true[:, :, None] <= values) & seen[:, :, None]).sum(axis=(0, 3))

    def scores(self) -> Scores:
        """By target, horizon and forecaster."""
        horizon = self._contract.settings.horizon_steps
        steps = {str(h): slice(h - 1, h) for h in HORIZONS if h <= horizon} | {"all": slice(0, horizon)}
        return {
            target.name: {
                name: {who: self._score(i, j, part) for i, who in enumerate(self._forecasters)}
                for name, part in steps.items()
            }
            for j, target in enumerate(self._contract.targets)
        }

    def curves(self) -> Curves:
        """By step of the horizon."""
        count = np.where(self._count, self._count, np.nan)  # [targets, horizon]
        total = self._count.sum(axis=1)
        return Curves(
            mae={who: self._absolute[i] / count for i, who in enumerate(self._forecasters)},
            pinball={who: self._pinball[i] / count for i, who in enumerate(self._forecasters)},
            coverage80=self._covered[0] / count,
            reliability=self._below / np.where(total, total, np.nan)[:, None],
        )

    def _score(self, forecaster: int, target: int, steps: slice) -> Score:
        def mean(sums: Floats, counts: NDArray[np.int64], *levels: float) -> float | None:
            count = int(counts[target, steps].sum())
            told = all(self._levels[0] <= level <= self._levels[-1] for level in levels)
            total = float(sums[forecaster, target, steps].sum())
            return total / count if count and told and np.isfinite(total) else None

        return Score(
            mae=mean(self._absolute, self._count, 0.5),
            pinball=mean(self._pinball, self._count),
            coverage80=mean(self._covered, self._count, 0.1, 0.9),
            mase=mean(self._scaled, self._scaled_count, 0.5),
        )


def pinball(true: Floats, values: Floats, levels: Floats) -> Floats:
    """[..., horizon] mean over quantiles of ``true`` [..., horizon] against ``values`` [..., quantiles, horizon]."""
    error = true[..., None, :] - values
    level = levels[:, None]
    return np.asarray(np.maximum(level * error, (level - 1) * error).mean(axis=-2), np.float64)


def _sum(loss: Floats, seen: NDArray[np.bool_]) -> Floats:
    return np.asarray(np.where(seen, loss, 0).sum(axis=0), np.float64)


def quantile_at(values: Floats, levels: Floats, level: float) -> Floats | None:
    """The quantile of ``level``, linear between those that there are; None beyond the outermost.

    Args:
        values: [..., quantiles, horizon].
        levels: [quantiles], ascending.
        level: between 0 and 1.

    Returns:
        [..., horizon].
    """
    if not levels[0] <= level <= levels[-1]:
        return None
    right = int(np.searchsorted(levels, level))
    if levels[right] == level:
        return values[..., right, :]
    share = (level - levels[right - 1]) / (levels[right] - levels[right - 1])
    below, above = values[..., right - 1, :], values[..., right, :]
    return np.asarray(below + share * (above - below), np.float64)


def skill(scores: dict[str, Score], figure: str) -> float | None:
    """1 - the model's ``mae`` or ``pinball`` / that of the better of persistence and seasonal-naive.

    None where that made no error.
    """
    model, *baselines = (getattr(scores[who], figure) for who in FORECASTERS)
    best = None if None in baselines else min(baselines)
    return None if model is None or not best else 1 - model / best


def iso(time_ms: int) -> str:
    """UTC as ISO text, to the second."""
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
