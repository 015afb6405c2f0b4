"""Gradient boosting as a forecaster to beat: scikit-learn's, fitted per server, target and horizon.

It forecasts the change from step t to step t + h from the target's last ``LAGS`` values and its value one season before
t + h, all less the value at t, and from the time of day of t + h. Trees cannot extrapolate: fitted to the values
themselves they are no match where a server's level moves (docs/evaluation.md has the figures of both, and of the two
losses that were tried; nothing else is tuned). scikit-learn is an extra, ``fleetcast[evaluate]``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.baselines import observed, persistence
from models.samples import History, Samples
from models.told import told
from schemas.batch import Floats, Ints
from schemas.contract import DAY_SECONDS
from schemas.errors import InputError

LAGS = 24
LOSS = "absolute_error"
_FEWEST_ROWS = 100  # less is no training set: persistence stands in


class Boosting:
    """Fitted regressors of the servers of a history, by server, target and horizon."""

    def __init__(
        self, history: History, slots: Sequence[int], horizons: Sequence[int], before_step: int, loss: str = LOSS
    ) -> None:
        """Fit on forecasts whose target step lies before ``before_step``.

        Args:
            history: observed values.
            slots: servers to fit.
            horizons: in steps.
            before_step: since the epoch.
            loss: of HistGradientBoostingRegressor.

        Raises:
            InputError: scikit-learn is not there, or there is nothing to fit on.
        """
        new = _regressor(loss)
        self._history, self._horizons = history, tuple(horizons)
        self._first = int(history.step.min())
        self._values: dict[int, Floats] = {}  # float64: differences that were rounded cost accuracy
        self._fitted: dict[tuple[int, int, int], Any] = {}
        for (place,) in told("boosting", len(slots), unit="servers", rows=1):
            slot = slots[place]
            self._values[slot] = observed(history, slot).astype(np.float64)
            for target in range(len(history.contract.targets)):
                for horizon in self._horizons:
                    self._fit(new, slot, target, horizon, before_step)
        if not self._fitted:
            raise InputError(
                f"no server has {_FEWEST_ROWS} observed steps before the first forecast judged: gradient boosting "
                "needs them to be fitted on"
            )

    def forecast(self, samples: Samples) -> Floats:
        """[B, horizon, targets]; NaN at steps that were not fitted; persistence where a server had too little data."""
        points = persistence(self._history, samples).astype(np.float64)
        unfitted = np.ones(points.shape[1], bool)
        unfitted[[h - 1 for h in self._horizons]] = False
        points[:, unfitted] = np.nan
        for (slot, target, horizon), fitted in self._fitted.items():
            rows = np.flatnonzero(samples.slot == slot)
            if len(rows):
                ends = samples.step[rows] - self._first
                points[rows, horizon - 1, target] += fitted.predict(self._features(slot, target, horizon, ends))
        return points

    def _fit(self, new: Any, slot: int, target: int, horizon: int, before_step: int) -> None:
        values = self._values[slot][:, target]
        ends = np.arange(min(before_step - self._first, len(values)) - horizon)
        ends = ends[np.isfinite(values[ends]) & np.isfinite(values[ends + horizon])]
        if len(ends) >= _FEWEST_ROWS:
            features = self._features(slot, target, horizon, ends)
            self._fitted[slot, target, horizon] = new().fit(features, values[ends + horizon] - values[ends])

    def _features(self, slot: int, target: int, horizon: int, ends: Ints) -> Floats:
        """[n, LAGS + 1] of forecasts issued after ``ends`` [n], steps from the history's first; NaN if unknown."""
        settings = self._history.contract.settings
        values = self._values[slot][:, target]
        seasons = -(-horizon // settings.season_steps)  # the last whole season that is known
        back = np.append(np.arange(1, LAGS), seasons * settings.season_steps - horizon)
        at = ends[:, None] - back
        lags = np.where(at >= 0, values[np.maximum(at, 0)], np.nan) - values[ends, None]
        seconds = (ends + horizon + self._first) * settings.step_seconds % DAY_SECONDS
        return np.column_stack([lags, seconds / DAY_SECONDS])


def _regressor(loss: str) -> Any:
    """What makes an unfitted regressor.

    Raises:
        InputError: scikit-learn is not there.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor  # type: ignore[import-untyped]  # noqa: PLC0415  an extra, slow to import
    except ImportError:
        raise InputError("gradient boosting needs scikit-learn: pip install 'fleetcast[evaluate]'") from None
    return lambda: HistGradientBoostingRegressor(loss=loss, random_state=0)
