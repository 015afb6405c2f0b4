"""From raw windows to the network's inputs, in one graph: what ``models.network_input`` computes."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.folded_gates import folded
from models.layout import CHANGES, CLIP, Layout, Scaling


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the folded network takes.

    Attributes:
        observed: [B, encoder, targets + covariates]. static: [B, 1, static reals], in the layout's order.
        lags: [B, encoder + horizon, targets], or None. center, scale: [B, targets].
    """

    observed: Tensor
    static: Tensor
    lags: Tensor | None
    center: Tensor
    scale: Tensor


class Features(nn.Module):
    """Centre and scale of each window, and everything that is said in their units."""

    floor: Tensor
    level: Tensor
    spread: Tensor
    mean: Tensor
    deviation: Tensor
    keep_observed: Tensor
    keep_static_reals: Tensor
    keep_lags: Tensor

    def __init__(self, layout: Layout, scaling: Scaling) -> None:
        """Keep the scalers."""
        super().__init__()
        self._encoder = layout.contract.settings.encoder_steps
        self._targets = len(layout.targets)
        folded(self, "floor", _row(scaling.floor[t] for t in layout.targets))
        folded(self, "level", _row(scaling.level[t] for t in layout.targets))
        folded(self, "spread", _row(scaling.spread[t] for t in layout.targets))
        self._covariates = len(layout.covariates)
        folded(self, "mean", _row(scaling.covariates[c][0] for c in layout.covariates))
        folded(self, "deviation", _row(scaling.covariates[c][1] for c in layout.covariates))
        for what in ("observed", "static_reals", "lags"):
            folded(self, f"keep_{what}", _row(float(n not in scaling.constant) for n in getattr(layout, what)))

    def forward(self, reals: Tensor, lag: Tensor | None, lengths: Tensor | None) -> Inputs:
        """The inputs of right-padded windows.

        Args:
            reals: [B, encoder, inputs] targets, then covariates.
            lag: [B, encoder + horizon, targets], where the contract names it.
            lengths: [B] steps that are not padding; None where all windows are full.
        """
        history = reals[..., : self._targets]
        center, scale = self._window(history, lengths)
        observed = asinh((history - center[:, None]) / scale[:, None])
        if self._covariates:
            others = asinh((reals[..., self._targets :] - self.mean) / self.deviation)
            observed = torch.cat([observed, others], dim=-1)
        static = self._static(history, center, scale, lengths) * self.keep_static_reals
        lags = None if lag is None else asinh((lag - center[:, None]) / scale[:, None]) * self.keep_lags
        return Inputs(observed * self.keep_observed, static[:, None], lags, center, scale)

    def _window(self, history: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        moves = (history[:, 1:] - history[:, :-1]).abs()
        if lengths is None:
            return history[:, -1], moves.mean(1) + self.floor
        inside = torch.arange(1, self._encoder) < lengths[:, None]
        total = (moves * inside[..., None].to(moves.dtype)).sum(1)
        return self._back(history, lengths, 0), total / (lengths - 1).clamp(min=1)[:, None] + self.floor

    def _back(self, history: Tensor, lengths: Tensor | None, steps: int) -> Tensor:
        """[B, targets] the value so many steps before the last one, or the first one."""
        if lengths is None:
            return history[:, max(self._encoder - 1 - steps, 0)]
        return pick(history, (lengths - 1 - steps).clamp(min=0))

    def _static(self, history: Tensor, center: Tensor, scale: Tensor, lengths: Tensor | None) -> Tensor:
        """[B, static reals] changes by target, the length, then level and scale by target."""
        changes = [asinh((center - self._back(history, lengths, steps)) / scale) for steps in CHANGES]
        length = torch.full_like(center[:, :1], self._encoder) if lengths is None else lengths[:, None].to(center.dtype)
        length = (length - 0.5 * self._encoder) / self._encoder * 2
        level = ((center - self.level) / self.spread).clamp(-CLIP, CLIP)
        size = torch.log(scale / self.spread).clamp(-CLIP, CLIP)
        by_target = torch.stack(changes, dim=-1).flatten(1)
        return torch.cat([by_target, length, torch.stack([level, size], dim=-1).flatten(1)], dim=1)


def pick(x: Tensor, at: Tensor) -> Tensor:
    """[B, unit] the step ``at`` [B] of [B, time, unit], which is exact as a product with zeros and a one."""
    one = (torch.arange(x.shape[1]) == at[:, None]).to(x.dtype)
    return torch.matmul(one[:, None], x)[:, 0]


def asinh(x: Tensor) -> Tensor:
    """By logarithm; for small ``x`` it is off by 1e-7, as much as float32 is near 1."""
    size = x.abs()
    return torch.sign(x) * torch.log(size + torch.sqrt(size * size + 1))


def sinh(x: Tensor) -> Tensor:
    """By exponentials."""
    return (torch.exp(x) - torch.exp(-x)) * 0.5


def _row(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)
