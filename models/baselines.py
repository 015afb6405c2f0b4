"""What a forecast must beat: persistence and seasonal-naive (Hyndman & Athanasopoulos, "Forecasting", section 5.2)."""

import numpy as np
from numpy.typing import NDArray

from models.samples import History, Samples


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
