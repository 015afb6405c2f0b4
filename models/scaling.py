"""The scalers that training fixes, from the rows that training may see."""

import numpy as np

from models.layout import Layout, Scaling
from schemas.batch import Floats, Ints

# Small against persistence's own error, and enough that a constant window does not blow up its own noise.
_FLOOR = 0.01
# Windows are float32: what varies by less than this part of its size is a constant and the rounding of its sums.
_ROUNDING = 1e-6


def fit_scaling(layout: Layout, steps: Ints, reals: Floats) -> Scaling:
    """Fit on training rows only.

    Args:
        layout: names the inputs.
        steps: [n] step indices.
        reals: [n, reals] their values; NaN where a window had not begun.
    """
    contract = layout.contract
    level, spread, covariates = {}, {}, {}
    constant = []
    for column, name in enumerate(layout.observed):
        values = reals[:, column][np.isfinite(reals[:, column])]
        mean, deviation = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
        if deviation <= _ROUNDING * abs(mean):
            deviation = 0.0
        if name in layout.targets:
            level[name], spread[name] = mean, deviation or _fallback(mean, contract.targets[column].maximum)
        else:
            covariates[name] = (mean, deviation or 1.0)
            if deviation == 0:
                constant.append(name)
    seen = np.unique(steps)
    if len(seen):
        known = np.ptp(layout.calendar.values(seen), axis=0)
        constant += [name for name, span in zip(layout.calendar.names, known, strict=True) if span == 0]
    floor = {name: _FLOOR * value for name, value in spread.items()}
    return Scaling(floor=floor, level=level, spread=spread, covariates=covariates, constant=tuple(constant))


def _fallback(mean: float, maximum: float | None) -> float:
    """The spread of a target that never moved in training: a hundredth of its size."""
    return 0.01 * (abs(mean) or maximum or 1.0)
