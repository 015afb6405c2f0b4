"""How good a model is: its error beside that of simple forecasts, on windows whose future is known.

The figures are defined in ``models.scores``, breaches foreseen in ``models.foresight``; ``models.report`` renders both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from models.artifact import Model, Trained
from models.baselines import persistence, seasonal_naive, seasonal_scale
from models.boosting import Boosting
from models.foresight import Breaches, Incidents, judge_breaches
from models.runtime import Runtime
from models.samples import History, Samples
from models.scores import (
    BOOSTING,
    FORECASTERS,
    HORIZONS,
    Evaluation,
    Example,
    Group,
    Sums,
    iso,
    pinball,
)
from models.split import spread
from models.told import told
from models.windows import WindowBatch
from schemas.batch import EventBatch, Floats, Ints
from schemas.errors import DataError, InputError

log = structlog.get_logger(__name__)
MAX_WINDOWS = 2_000
EXAMPLES_EACH = 2  # windows of each kind and target to look at
_SEARCH_WINDOWS = 8_192  # looked through at once for a future that was observed


@dataclass(frozen=True, slots=True)
class Scope:
    """What is judged.

    Attributes:
        max_windows: how many windows are judged at most.
        since_step, until_step: only forecasts whose first step (since the epoch) lies within, both included.
        boosting: beside gradient boosting, fitted on what lies before ``since_step``.
        breach_windows: how many windows breaches foreseen may take; 0 leaves them out.
        incidents: labels for these.
    """

    max_windows: int = MAX_WINDOWS
    since_step: int = 0
    until_step: int | None = None
    boosting: bool = False
    breach_windows: int = 0
    incidents: Incidents | None = None

    def check(self) -> None:
        """Refuse what makes no sense."""
        if self.max_windows < 1:
            raise InputError(f"max_windows: {self.max_windows} is not a number of windows from 1")
        if self.until_step is not None and self.until_step < self.since_step:
            raise InputError("until lies before since: no forecast is issued between them")
        if self.boosting and not self.since_step:
            raise InputError(
                "gradient boosting is fitted on what lies before the forecasts that are judged: say since when they are"
            )


def evaluate(
    model: Model,
    events: EventBatch,
    *,
    max_windows: int = MAX_WINDOWS,
    since_step: int = 0,
    until_step: int | None = None,
    boosting: bool = False,
    breach_windows: int = 0,
    incidents: Incidents | None = None,
) -> Evaluation:
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
        until_step: judge only windows whose first forecast step is this one or an earlier one.
        boosting: fit gradient boosting on what lies before ``since_step`` and judge it too.
        breach_windows: judge breaches foreseen on at most so many windows; 0 leaves them out.
        incidents: labels, for breaches foreseen by kind.

    Raises:
        DataError: there is no window that can be judged.
        InputError: ``max_windows`` is less than 1, or the rest makes no sense together.
    """
    scope = Scope(max_windows, since_step, until_step, boosting, breach_windows, incidents)
    scope.check()
    _warn_if_trained_on(model, events, since_step)
    history = History(model.contract, events)
    return _Judge(model.runtime(), history, scope).evaluation(model.version, model.metadata)


def evaluate_trained(trained: Trained, events: EventBatch, scope: Scope) -> Evaluation:
    """``evaluate`` before the model is saved: after training's cut (``Split.first_validation_step``), or on other data.

    Training took no window whose horizon reaches the cut, so no step that is judged was trained on.

    Raises:
        DataError: there is no window that can be judged.
    """
    scope.check()
    runtime = trained.runtime()
    history = History(trained.layout.contract, events)
    return _Judge(runtime, history, scope).evaluation(None, trained.metadata)


def _warn_if_trained_on(model: Model, events: EventBatch, since_step: int) -> None:
    metadata = model.metadata
    # A refit takes in the validation's time too: then no time of that data was left out.
    cut = None if "refit_windows" in metadata else metadata.get("first_validation_step")
    if metadata.get("data_sha256") != events.sha256() or (cut is not None and since_step >= cut):
        return
    log.warning(
        "the model was trained on this data: its figures say little about other data",
        model=model.version, first_validation_at=metadata.get("first_validation_at"),
    )  # fmt: skip


class _Judge:
    """One model on one history."""

    def __init__(self, runtime: Runtime, history: History, scope: Scope) -> None:
        self._runtime, self._history, self._scope = runtime, history, scope
        self._candidates = _candidates(history, scope)
        self._samples = self._candidates.take(spread(self._candidates, scope.max_windows))
        slots = np.unique(self._samples.slot).tolist()
        self._scale = seasonal_scale(history, slots, scope.since_step)
        self._boosting = None
        if scope.boosting:
            horizons = [h for h in HORIZONS if h <= history.contract.settings.horizon_steps]
            self._boosting = Boosting(history, slots, horizons, scope.since_step)
        self._forecasters = (*FORECASTERS, BOOSTING) if scope.boosting else FORECASTERS

    def evaluation(self, version: str | None, metadata: Mapping[str, Any]) -> Evaluation:
        """All figures."""
        history, samples = self._history, self._samples
        members = _members(history, metadata)
        sums = {name: Sums(history.contract, self._forecasters) for name in ("all", *members)}
        relative = np.full((len(samples), len(history.contract.targets)), np.nan)
        judged = np.zeros(len(samples), bool)
        for rows in told("evaluating", len(samples)):
            judged[rows], relative[rows] = self._block(samples.take(rows), sums, members)
        if not judged.any():
            raise DataError(
                f"the model's output was not finite for any of {len(samples)} windows: nothing can be judged"
            )
        kept = samples.take(judged)
        issued_at = (kept.step + 1) * history.contract.step_ms
        return Evaluation(
            model_version=version,
            windows=len(kept),
            candidates=len(self._candidates),
            withheld=int((~judged).sum()),
            servers=len(np.unique(kept.slot)),
            first_issued_at=int(issued_at.min()),
            last_issued_at=int(issued_at.max()),
            refused=history.refused,
            targets=sums["all"].scores(),
            groups={
                name: Group(sums[name].windows, len(np.unique(kept.slot[inside[kept.slot]])), sums[name].scores())
                for name, inside in members.items()
                if sums[name].windows
            },
            breaches=self._breaches(),
            curves=sums["all"].curves(),
            examples=tuple(self._examples(kept, relative[judged])),
        )

    def _breaches(self) -> Breaches | None:
        most, incidents = self._scope.breach_windows, self._scope.incidents
        if not most:
            return None
        return judge_breaches(self._history, self._candidates, self._published, most=most, incidents=incidents)

    def _block(
        self, block: Samples, sums: dict[str, Sums], members: dict[str, NDArray[np.bool_]]
    ) -> tuple[NDArray[np.bool_], Floats]:
        """Judge a block: [B] whether its forecast was finite, and [B, targets] how bad it was for its window."""
        history = self._history
        windows = history.windows(block)
        quantiles = self._runtime.forecast(windows)
        good = block.take(quantiles.finite)
        values = quantiles.values[quantiles.finite]
        points: list[NDArray[Any]] = [persistence(history, good), seasonal_naive(history, good)]
        if self._boosting is not None:
            points.append(self._boosting.forecast(good))
        forecasts = [values, *map(_as_quantiles, points)]
        truth, scale = history.future(good).transpose(0, 2, 1), self._scale[good.slot]
        sums["all"].add(forecasts, truth, scale)
        for name, inside in members.items():
            rows = inside[good.slot]
            if rows.any():
                sums[name].add([forecast[rows] for forecast in forecasts], truth[rows], scale[rows])
        relative = np.full((len(block), truth.shape[1]), np.nan)
        relative[quantiles.finite] = self._relative(windows.take(np.flatnonzero(quantiles.finite)), values, truth)
        return quantiles.finite, relative

    def _relative(self, windows: WindowBatch, values: NDArray[np.float32], truth: NDArray[np.float32]) -> Floats:
        """[B, targets] pinball over the window's mean absolute one-step difference.

        NaN where that is 0, or where less than half of the horizon was observed.
        """
        n_targets = truth.shape[1]
        inside = np.arange(1, windows.reals.shape[1]) < windows.lengths[:, None]
        moves = np.abs(np.diff(windows.reals[..., :n_targets].astype(np.float64), axis=1))
        move = np.where(inside[..., None], moves, 0).sum(axis=1) / np.maximum(windows.lengths - 1, 1)[:, None]
        loss = pinball(truth.astype(np.float64), values.astype(np.float64), self._levels)  # [B, targets, horizon]
        seen = np.isfinite(loss)
        mean = np.where(seen, loss, 0).sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1)
        usable = (move > 0) & (2 * seen.sum(axis=-1) >= truth.shape[-1])
        return np.where(usable, mean / np.where(usable, move, 1), np.nan)

    @property
    def _levels(self) -> Floats:
        return np.array(self._history.contract.settings.quantiles)

    def _published(self, samples: Samples) -> NDArray[np.float32]:
        """[B, targets, quantiles, horizon]; NaN where it would be withheld."""
        quantiles = self._runtime.forecast(self._history.windows(samples))
        return np.where(quantiles.finite[:, None, None, None], quantiles.values, np.float32(np.nan))

    def _examples(self, samples: Samples, relative: Floats) -> Iterator[Example]:
        """The best, median and worst windows of each target."""
        for column, field in enumerate(self._history.contract.targets):
            order = np.argsort(relative[:, column])[: int(np.isfinite(relative[:, column]).sum())]
            for kind, rows in _chosen(order).items():
                picked = samples.take(rows)
                values, truths = self._published(picked), self._history.future(picked)
                windows = self._history.windows(picked)
                for i, quantiles in enumerate(values[:, column].astype(np.float64)):
                    past = np.full(windows.reals.shape[1], np.nan)
                    past[len(past) - windows.lengths[i] :] = windows.reals[i, : windows.lengths[i], column]
                    truth = truths[i, :, column].astype(np.float64)
                    yield Example(
                        kind=kind,
                        server=self._history.keys[picked.slot[i]],
                        issued_at=int(picked.step[i] + 1) * self._history.contract.step_ms,
                        target=field.name,
                        past=past,
                        truth=truth,
                        quantiles=quantiles,
                        pinball=float(np.nanmean(pinball(truth, quantiles, self._levels))),
                    )


def _chosen(order: Ints) -> dict[str, Ints]:
    """Rows by kind out of ``order``, best first; none twice, and nothing where there are few."""
    middle, each = len(order) // 2, EXAMPLES_EACH
    if len(order) < 3 * each:
        return {}
    return {"best": order[:each], "median": order[middle - each // 2 :][:each], "worst": order[-each:]}


def _members(history: History, metadata: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
    """Which slots were trained on and which were not, as far as the metadata tells."""
    trained = metadata.get("trained_servers")
    if not isinstance(trained, list):
        return {}
    names = set(trained)
    seen = np.array([key in names for key in history.keys], bool)
    return {"seen": seen, "unseen": ~seen}


def _candidates(history: History, scope: Scope) -> Samples:
    """The windows in scope of whose horizon something was observed.

    Raises:
        DataError: there is none, with what is missing.
    """
    settings = history.contract.settings
    if not len(history.samples):
        raise DataError(
            f"no window can be judged: no server has {settings.min_encoder_steps} steps (min_encoder_steps) of "
            f"{settings.step_seconds} s without a gap of more than {settings.max_gap_steps}"
        )
    first = history.samples.step + 1
    until = int(first.max()) if scope.until_step is None else scope.until_step
    samples = history.samples.take((first >= scope.since_step) & (first <= until))
    if not len(samples):
        end = "" if scope.until_step is None else f" and at or before {iso(until * history.contract.step_ms)}"
        raise DataError(
            f"no window can be judged: none of {len(history.samples)} is issued at or after "
            f"{iso(scope.since_step * history.contract.step_ms)}{end}"
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


def _as_quantiles(points: NDArray[Any]) -> NDArray[Any]:
    """[B, horizon, targets] as [B, targets, 1, horizon]: the point stands for every quantile."""
    return points.transpose(0, 2, 1)[:, :, None]
