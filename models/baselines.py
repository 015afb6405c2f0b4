"""What a forecast must beat: persistence and seasonal-naive (Hyndman & Athanasopoulos, "Forecasting", section 5.2)."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from models.samples import History, Samples
from schemas.batch import Codes, Floats


def persistence(history: History, samples: Samples) -> NDArray[np.float32]:
    """[B, horizon, targets] the last value, for every step."""
    last = history.past(samples, np.zeros(1, np.int64))
    return np.repeat(last, history.contract.settings.horizon_steps, axis=1)


def seasonal_naive(history: History, samples: Samples) -> NDArray[np.float32]:
    """[B, horizon, targets] the value one season earlier; the last value where that was not seen."""
    settings = history.contract.settings
    ahead = np.arange(1, settings.horizon_steps + 1)
    seasons = (ahead + settings.season_steps - 1) // settings.season_steps  # the last whole season that is known
    value = history.past(samples, seasons * settings.season_steps - ahead)
    return np.where(np.isnan(value), persistence(history, samples), value)


def observed(history: History, slot: int) -> NDArray[np.float32]:
    """[steps, targets] one server's observed values, from the history's first step to its last; NaN where none was."""
    first, last = int(history.step.min()), int(history.step.max())
    ends = np.arange(first - 1, last, history.contract.settings.horizon_steps)
    none: Codes = np.zeros((len(ends), 0), np.int16)
    samples = Samples(np.full(len(ends), slot), ends, np.zeros(len(ends), np.int64), none)
    values = history.future(samples)  # [ends, horizon, targets]
    return values.reshape(-1, values.shape[-1])[: last - first + 1]


def seasonal_scale(history: History, slots: Iterable[int], since_step: int = 0) -> Floats:
    """What errors of MASE are measured in: each server's mean |difference| between a value and that a season before.

    Of what was observed before ``since_step``, or of all where that is not after the first step: the scale then rests
    on the data that is judged. The one-step difference stands in where no season fits.

    Returns:
        [servers, targets] a row for every slot up to the largest; NaN where it is 0, unknown or not asked for.
    """
    season, first = history.contract.settings.season_steps, int(history.step.min())
    scale = np.full((len(history.keys), len(history.contract.targets)), np.nan)
    for slot in slots:
        values = observed(history, slot).astype(np.float64)
        known = values[: since_step - first] if since_step > first else values
        scale[slot] = _mean_difference(known, season)
        missing = np.isnan(scale[slot])
        scale[slot, missing] = _mean_difference(known[:, missing], 1)
    return np.where(scale > 0, scale, np.nan)


def _mean_difference(values: Floats, lag: int) -> Floats:
    """[targets] mean |difference| over ``lag`` steps of ``values`` [steps, targets]; NaN where there is no pair."""
    difference = np.abs(values[lag:] - values[:-lag])
    count = np.isfinite(difference).sum(axis=0)
    return np.asarray(np.nansum(difference, axis=0) / np.where(count, count, np.nan), np.float64)
