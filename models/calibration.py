"""Conformal offsets: what is added to each quantile so that, on data that training did not see, it holds its level.

One-sided conformalised quantile regression (Romano, Patterson & Candès, "Conformalized Quantile Regression", 2019) for
each target, level and step, in the network's units. It comes after the network, as a stage of its own: the
network's output still equals the library's ``predict()``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_forecasting import TemporalFusionTransformer

from models.forward import forward
from models.layout import Layout, Scaling
from models.network_input import network_input
from models.normalizer import normalise
from models.sampling import Chunk

_NEIGHBOURS = 1.25  # a step's offset rests on the steps from h / 1.25 to 1.25 h: neighbours err alike
LEAST_WINDOWS = 100  # fewer say nothing about a quantile of 0.02


@dataclass(frozen=True, slots=True)
class Calibration:
    """Offsets, and what they rest on.

    Attributes:
        offsets: [targets, quantiles, horizon] in the network's units.
        metadata: windows used, and the coverage of the 80 % interval on them before and after, by target.
    """

    offsets: NDArray[np.float32]
    metadata: dict[str, Any]


def calibrate(
    network: TemporalFusionTransformer, layout: Layout, scaling: Scaling, chunks: Sequence[Chunk]
) -> Calibration | None:
    """Find the offsets; None where there are too few windows.

    Args:
        network: in evaluation mode, on the CPU.
        layout: of its inputs.
        scaling: of its inputs.
        chunks: windows that it was not trained on.
    """
    windows = sum(len(chunk.future) for chunk in chunks)
    if windows < LEAST_WINDOWS:
        return None
    residuals = np.concatenate([_residuals(network, layout, scaling, chunk) for chunk in chunks])
    levels = layout.contract.settings.quantiles
    offsets = _offsets(residuals, levels)
    coverage = {}
    if {0.1, 0.9} <= set(levels):
        after = residuals - offsets.transpose(2, 0, 1)
        for j, target in enumerate(layout.contract.targets):
            shares = [_inside(r[:, :, j], levels.index(0.1), levels.index(0.9)) for r in (residuals, after)]
            coverage[target.name] = {"before": round(shares[0], 4), "after": round(shares[1], 4)}
    return Calibration(offsets, {"windows": windows, "coverage80": coverage})


def _offsets(residuals: NDArray[np.float32], levels: Sequence[float]) -> NDArray[np.float32]:
    _, horizon, targets, _ = residuals.shape
    offsets = np.zeros((targets, len(levels), horizon), np.float32)
    for step in range(1, horizon + 1):
        near = residuals[:, math.ceil(step / _NEIGHBOURS) - 1 : int(step * _NEIGHBOURS)]
        for target in range(targets):
            values = near[:, :, target].reshape(-1, len(levels))
            values = values[np.isfinite(values[:, 0])]
            if len(values) >= LEAST_WINDOWS:
                offsets[target, :, step - 1] = [np.quantile(values[:, q], level) for q, level in enumerate(levels)]
    return offsets


def _inside(residuals: NDArray[np.float32], low: int, high: int) -> float:
    """Share of truths between two quantiles; ``residuals``: [n, horizon, quantiles]."""
    seen = np.isfinite(residuals[..., low])
    return float(((residuals[..., low] >= 0) & (residuals[..., high] <= 0) & seen).sum() / max(seen.sum(), 1))


@torch.inference_mode()
def _residuals(
    network: TemporalFusionTransformer, layout: Layout, scaling: Scaling, chunk: Chunk
) -> NDArray[np.float32]:
    """[n, horizon, targets, quantiles] truth less quantile, in the network's units; NaN without truth."""
    inputs = network_input(layout, scaling, chunk.windows)
    truth = normalise(chunk.future, inputs.center[:, None], inputs.scale[:, None])
    values: NDArray[np.float32] = (truth[..., None] - forward(network, inputs)).numpy()
    return values
