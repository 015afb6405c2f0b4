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
    count, limit = len(levels), np.float64(threshold)  # compared in float64, as it stands in the contract
    rank = np.zeros((*values.shape[:-2], values.shape[-1]), np.intp)
    for quantile in range(count):
        rank += values[..., quantile, :] <= limit  # how many quantiles lie at or under the threshold
    under = (rank == count).astype(np.float64)
    cut = np.nonzero((rank > 0) & (rank < count))  # few steps: only there is anything to be worked out
    upper = rank[cut]
    low = values[(*cut[:-1], upper - 1, cut[-1])].astype(np.float64)
    high = values[(*cut[:-1], upper, cut[-1])].astype(np.float64)
    share = np.clip((limit - low) / np.maximum(high - low, 1e-12), 0, 1)
    under[cut] = levels[upper - 1] + share * (levels[upper] - levels[upper - 1])
    probability: NDArray[np.float64] = 1 - under if above else under
    return probability
