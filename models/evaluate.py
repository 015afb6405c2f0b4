"""How good a model is: its error beside that of persistence and seasonal-naive, on windows whose future is known.

Pinball loss: Koenker & Bassett, "Regression Quantiles", 1978. Skill is 1 - error / error of the better baseline.
"""

import datetime as dt
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from models.artifact import Model, Trained
from models.baselines import persistence, seasonal_naive
from models.runtime import Runtime
from models.samples import History, Samples
from schemas.batch import EventBatch, Floats, Ints
from schemas.contract import Contract
from schemas.errors import DataError, InputError

log = structlog.get_logger(__name__)
HORIZONS = (1, 3, 12)
FORECASTERS = ("model", "persistence", "seasonal_naive")
MAX_WINDOWS = 2_000
_BLOCK_WINDOWS = 256  # forecast and judged at once; bounds memory
_SEARCH_WINDOWS = 8_192  # looked through at once for a future that was observed
_TELL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Score:
    """Means over observed (window, step) pairs; None where there is none, or where no quantile gives the figure.

    Attributes:
        mae: of the median, in the target's unit.
        pinball: over the contract's quantiles, in the target's unit.
        coverage80: share of truths within the quantiles 0.1 and 0.9, bounds included.
    """

    mae: float | None
    pinball: float | None
    coverage80: float | None


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
    """

    model_version: str | None
    windows: int
    candidates: int
    withheld: int
    servers: int
    first_issued_at: int
    last_issued_at: int
    refused: dict[str, int]
    targets: dict[str, dict[str, dict[str, Score]]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, times as ISO text."""
        return {
            **asdict(self),
            "first_issued_at": _iso(self.first_issued_at),
            "last_issued_at": _iso(self.last_issued_at),
        }


def evaluate(model: Model, events: EventBatch, *, max_windows: int = MAX_WINDOWS, since_step: int = 0) -> Evaluation:
    """Judge a model on a history.

    What is judged is what is published (bounded and sorted), on every window with at least ``min_encoder_steps`` and an
    observed value in its horizon; where there are more than ``max_windows``, that many, spread evenly over servers and
    over each server's time. A figure is the plain mean over all observed (window, step) pairs: each pair weighs the
    same, whichever its window; held steps are no truth. "all" takes in all steps of the horizon. A point forecast
    stands for each of its quantiles. Quantiles that the contract lacks lie linearly between their neighbours.
    All sums are float64.

    Args:
        model: gives the contract.
        events: in time order.
        max_windows: how many windows are judged at most.
        since_step: judge only windows whose first forecast step is this one (since the epoch) or a later one.

    Raises:
        DataError: there is no window that can be judged.
        InputError: ``max_windows`` is less than 1.
    """
    return _judge(model.runtime(), model.version, History(model.contract, events), max_windows, since_step)


def evaluate_trained(
    trained: Trained, events: EventBatch, since_step: int, *, max_windows: int = MAX_WINDOWS
) -> Evaluation:
    """``evaluate`` before the model is saved, after training's cut (``Split.first_validation_step``).

    Training took no window whose horizon reaches ``since_step``, so no step that is judged was trained on.

    Raises:
        DataError: there is no window that can be judged.
    """
    runtime = Runtime(trained.layout, trained.scaling, trained.network)
    return _judge(runtime, None, History(trained.layout.contract, events), max_windows, since_step)


def _judge(runtime: Runtime, version: str | None, history: History, max_windows: int, since_step: int) -> Evaluation:
    if max_windows < 1:
        raise InputError(f"max_windows: {max_windows} is not a number of windows from 1")
    contract = history.contract
    candidates = _candidates(history, since_step)
    samples = candidates.take(_spread(candidates, max_windows))
    sums = _Sums(contract)
    judged = np.zeros(len(samples), bool)
    started = told = time.monotonic()
    for rows in _blocks(len(samples)):
        block = samples.take(rows)
        quantiles = runtime.forecast(history.windows(block))
        judged[rows] = quantiles.finite
        good = block.take(quantiles.finite)
        sums.add(
            [
                quantiles.values[quantiles.finite],
                _as_quantiles(persistence(history, good)),
                _as_quantiles(seasonal_naive(history, good)),
            ],
            history.future(good).transpose(0, 2, 1),
        )
        if time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            log.info("evaluating", windows=int(rows[-1]) + 1, of=len(samples), seconds=round(told - started, 1))
    if not judged.any():
        raise DataError(f"the model's output was not finite for any of {len(samples)} windows: nothing can be judged")
    issued_at = (samples.step[judged] + 1) * contract.step_ms
    return Evaluation(
        model_version=version,
        windows=int(judged.sum()),
        candidates=len(candidates),
        withheld=int((~judged).sum()),
        servers=len(np.unique(samples.slot[judged])),
        first_issued_at=int(issued_at.min()),
        last_issued_at=int(issued_at.max()),
        refused=dict(history.refused),
        targets=sums.scores(),
    )


def _candidates(history: History, since_step: int) -> Samples:
    """The windows after ``since_step`` of whose horizon something was observed.

    Raises:
        DataError: there is none, with what is missing.
    """
    settings = history.contract.settings
    if not len(history.samples):
        raise DataError(
            f"no window can be judged: no server has {settings.min_encoder_steps} steps (min_encoder_steps) of "
            f"{settings.step_seconds} s without a gap of more than {settings.max_gap_steps}"
        )
    samples = history.samples.take(history.samples.step + 1 >= since_step)
    if not len(samples):
        raise DataError(
            f"no window can be judged: none of {len(history.samples)} is issued at or after "
            f"{_iso(since_step * history.contract.step_ms)}"
        )
    known = np.zeros(len(samples), bool)
    for start in range(0, len(samples), _SEARCH_WINDOWS):
        rows = np.arange(start, min(start + _SEARCH_WINDOWS, len(samples)))
        known[rows] = np.isfinite(history.future(samples.take(rows))).any(axis=(1, 2))
    if not known.any():
        raise DataError(
            f"no window can be judged: nothing was observed in the {settings.horizon_steps} steps after any of "
            f"{len(samples)} windows"
        )
    return samples.take(known)


def _spread(samples: Samples, most: int) -> NDArray[np.intp]:
    """At most ``most`` rows, one of each of as many equal stretches of the samples by server and time.

    Drawn at random (fixed seed) within its stretch: at equal distances the rows could meet the same hour every day.
    """
    order = np.lexsort((samples.step, samples.slot))
    count = min(most, len(order))
    edges = np.arange(count + 1) * len(order) // count
    return order[np.random.default_rng(0).integers(edges[:-1], edges[1:])]


def _blocks(n: int) -> Iterator[Ints]:
    for start in range(0, n, _BLOCK_WINDOWS):
        yield np.arange(start, min(start + _BLOCK_WINDOWS, n))


def _as_quantiles(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """[B, horizon, targets] as [B, targets, 1, horizon]: the point stands for every quantile."""
    return points.transpose(0, 2, 1)[:, :, None]


class _Sums:
    """Sums over windows of each forecaster's losses: [forecaster, target, step] float64."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._levels = np.array(contract.settings.quantiles)
        shape = (len(FORECASTERS), len(contract.targets), contract.settings.horizon_steps)
        self._absolute, self._pinball, self._covered = (np.zeros(shape) for _ in range(3))
        self._count = np.zeros(shape[1:], np.int64)

    def add(self, forecasts: list[NDArray[np.float32]], truth: NDArray[np.float32]) -> None:
        """Add windows.

        Args:
            forecasts: by forecaster, [B, targets, quantiles or 1, horizon].
            truth: [B, targets, horizon]; NaN where nothing was observed.
        """
        seen = np.isfinite(truth)
        true = truth.astype(np.float64)
        levels = self._levels[:, None]
        self._count += seen.sum(axis=0)
        for i, forecast in enumerate(forecasts):
            values = np.broadcast_to(forecast, (*true.shape[:2], len(levels), true.shape[2])).astype(np.float64)
            error = true[:, :, None] - values
            self._pinball[i] += _sum(np.maximum(levels * error, (levels - 1) * error).mean(axis=2), seen)
            median, low, high = (quantile_at(values, self._levels, level) for level in (0.5, 0.1, 0.9))
            if median is not None:
                self._absolute[i] += _sum(np.abs(true - median), seen)
            if low is not None and high is not None:
                self._covered[i] += ((low <= true) & (true <= high) & seen).sum(axis=0)

    def scores(self) -> dict[str, dict[str, dict[str, Score]]]:
        """By target, horizon and forecaster."""
        horizon = self._contract.settings.horizon_steps
        steps = {str(h): slice(h - 1, h) for h in HORIZONS if h <= horizon} | {"all": slice(0, horizon)}
        return {
            target.name: {
                name: {who: self._score(i, j, part) for i, who in enumerate(FORECASTERS)}
                for name, part in steps.items()
            }
            for j, target in enumerate(self._contract.targets)
        }

    def _score(self, forecaster: int, target: int, steps: slice) -> Score:
        count = int(self._count[target, steps].sum())

        def mean(sums: Floats, *levels: float) -> float | None:
            told = all(self._levels[0] <= level <= self._levels[-1] for level in levels)
            return float(sums[forecaster, target, steps].sum()) / count if count and told else None

        return Score(mean(self._absolute, 0.5), mean(self._pinball), mean(self._covered, 0.1, 0.9))


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
    """1 - the model's ``mae`` or ``pinball`` / that of the better baseline; None where that made no error."""
    model, *baselines = (getattr(scores[who], figure) for who in FORECASTERS)
    best = None if None in baselines else min(baselines)
    return None if model is None or not best else 1 - model / best


TABLE_HEAD = (
    "target", "horizon", "MAE model", "persist.", "seasonal", "skill %", "pinball model", "persist.", "seasonal",
    "skill %", "coverage80 %",
)  # fmt: skip


def table(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """The scores as text, a row per target and horizon, columns as in ``TABLE_HEAD``."""
    rows = []
    for target, horizons in evaluation.targets.items():
        for horizon, scores in horizons.items():
            cells = []
            for figure in ("mae", "pinball"):
                cells += [_number(getattr(scores[who], figure)) for who in FORECASTERS]
                cells.append(_percent(skill(scores, figure)))
            rows.append((target, horizon, *cells, _percent(scores["model"].coverage80)))
    return rows


def summary(evaluation: Evaluation) -> str:
    """What the scores rest on, in one line."""
    text = (
        f"{evaluation.windows} of {evaluation.candidates} windows of {evaluation.servers} servers, issued "
        f"{_iso(evaluation.first_issued_at)} to {_iso(evaluation.last_issued_at)}"
    )
    if evaluation.withheld:
        text += f"; {evaluation.withheld} windows left out, their forecast was not finite"
    if evaluation.refused:
        text += "; events refused: " + ", ".join(f"{n} ({stage})" for stage, n in evaluation.refused.items())
    return text


def render(evaluation: Evaluation) -> str:
    """The scores as a table for people; horizons in steps, skill against the better of the two baselines."""
    rows = [TABLE_HEAD, *table(evaluation)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TABLE_HEAD))]
    lines = [
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    title = f"{evaluation.model_version or 'model'}: {summary(evaluation)}"
    return "\n".join([title, "", lines[0], "-" * len(lines[0]), *lines[1:]])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _iso(time_ms: int) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
