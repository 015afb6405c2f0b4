"""How likely a forecast crosses its target's threshold, read off the quantiles."""

import numpy as np
from numpy.typing import NDArray


def breach_probability(
    values: NDArray[np.float32], levels: NDArray[np.float64], threshold: float, *, above: bool
) -> NDArray[np.float64]:
    """Probability at each step that the value lies above (or below) ``threshold``.

    Linear between the quantiles; 0 or 1 beyond the outermost ones, about which the forecast says nothing.

    Args:
        values: [..., quantiles, horizon], ascending over quantiles.
        levels: [quantiles].
        threshold: in the target's unit.
        above: which side is the breach.

    Returns:
        [..., horizon].
    """
    below = values.astype(np.float64) <= threshold
    rank = below.sum(axis=-2)  # how many quantiles lie at or under the threshold
    last = len(levels) - 1
    upper = np.clip(rank, 1, last) if last else np.zeros_like(rank)
    lower = np.maximum(upper - 1, 0)
    low = np.take_along_axis(values, lower[..., None, :], axis=-2)[..., 0, :].astype(np.float64)
    high = np.take_along_axis(values, upper[..., None, :], axis=-2)[..., 0, :].astype(np.float64)
    share = np.clip((threshold - low) / np.maximum(high - low, 1e-12), 0, 1)
    under = levels[lower] + share * (levels[upper] - levels[lower])
    under = np.where(rank == 0, 0.0, np.where(rank == len(levels), 1.0, under))
    return 1 - under if above else under
