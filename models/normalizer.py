"""How a window is brought to the network's units, and back.

Each window of a target is centred on its last value and scaled by its mean absolute difference, so that persistence is
the zero forecast and its error the unit. A constant window would have no scale: each target has a floor, which is kept
in the artifact. Inputs go through asinh, so that one spike does not blind the network to a quiet machine; outputs come
back through sinh, so that a breach that is twenty such units away is within reach of a normalised layer. Quantiles stay
quantiles under any rising function.
"""

import numpy as np
import pandas as pd
import torch
from pytorch_forecasting.data import EncoderNormalizer
from torch import Tensor


class WindowNormalizer(EncoderNormalizer):
    """pytorch-forecasting's EncoderNormalizer with our centre, scale and floor, so that ``predict()`` is the reference.

    ``transform`` gives the network's input, asinh((y - center) / scale); calling it is the way back:
    center + scale * sinh(output).
    """

    def __init__(self, scale_floor: float) -> None:
        """``scale_floor`` is added to the mean absolute difference, in the target's unit."""
        super().__init__(method="standard", center=True)
        self.scale_floor = scale_floor

    @property
    def min_length(self) -> int:
        """A window of one step has a centre, and the floor as its scale."""
        return 1

    def fit(self, y: pd.Series | np.ndarray | Tensor) -> "WindowNormalizer":
        """Centre and scale of [..., time]."""
        values = torch.as_tensor(y if isinstance(y, Tensor) else np.array(y))
        lengths = torch.full(values.shape[:-1], values.shape[-1])
        self.center_, self.scale_ = center_and_scale(values, lengths, self.scale_floor)
        return self

    def __call__(self, data: dict[str, Tensor]) -> Tensor:
        """[B, horizon, quantiles] in the target's unit."""
        back: Tensor = super().__call__({**data, "prediction": torch.sinh(data["prediction"])})
        return back

    def transform(
        self,
        y: pd.Series | np.ndarray | Tensor,
        return_norm: bool = False,
        target_scale: Tensor | None = None,
    ) -> object:
        """The network's input; with ``return_norm`` centre and scale too, as the base class does."""
        scaled = super().transform(y, return_norm=return_norm, target_scale=target_scale)
        values, norm = scaled if return_norm else (scaled, None)
        values = torch.asinh(values) if isinstance(values, Tensor) else np.arcsinh(values)
        return (values, norm) if return_norm else values


def normalise(values: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """The units in which network and loss work; all broadcast."""
    return torch.asinh((values - center) / scale)


def denormalise(output: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """The way back to the target's unit."""
    return center + scale * torch.sinh(output)


def center_and_scale(values: Tensor, lengths: Tensor, floor: Tensor | float) -> tuple[Tensor, Tensor]:
    """Centre (last value) and scale (mean absolute difference + floor) of right-padded windows.

    Args:
        values: [..., time].
        lengths: [...] steps that are not padding, at least 1.
        floor: broadcast over [...].
    """
    center = values.gather(-1, (lengths - 1).unsqueeze(-1)).squeeze(-1)
    inside = torch.arange(1, values.shape[-1], device=values.device) < lengths.unsqueeze(-1)
    moves = torch.where(inside, values.diff(dim=-1).abs(), 0)
    scale = moves.sum(-1) / (lengths - 1).clamp(min=1) + floor
    return center, scale
