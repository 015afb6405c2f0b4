"""Gated blocks of a trained Temporal Fusion Transformer, folded: no dropout, and the second layer within the gate."""

from typing import Any

import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor, nn


def folded(module: nn.Module, name: str, value: Tensor) -> None:
    """Keep a constant of the trained network."""
    module.register_buffer(name, value.detach().clone().contiguous())


def fold(module: nn.Module, grn: Any) -> None:
    """Keep a gated residual network's second layer and gate, both linear, as one: ``gate_weight``, ``gate_bias``."""
    gate = grn.gate_norm.glu.fc
    folded(module, "gate_weight", gate.weight @ grn.fc2.weight)
    folded(module, "gate_bias", gate.weight @ grn.fc2.bias + gate.bias)


class Norm(nn.Module):
    """A layer norm."""

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.LayerNorm) -> None:
        """Its constants."""
        super().__init__()
        folded(self, "weight", norm.weight)
        folded(self, "bias", norm.bias)
        self._eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """As it is."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self._eps)


class FoldedGrn(nn.Module):
    """A gated residual network whose input is as wide as its output."""

    gate_weight: Tensor
    gate_bias: Tensor

    def __init__(self, grn: Any) -> None:
        """Fold it."""
        super().__init__()
        self.first, self.context = grn.fc1, getattr(grn, "context", None)
        fold(self, grn)
        self.norm = Norm(grn.gate_norm.add_norm.norm)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """[B, time, hidden]; ``context``: [B, 1, hidden]."""
        hidden = self.first(x)
        if context is not None and self.context is not None:
            hidden = hidden + self.context(context)
        gated = F.glu(F.linear(F.elu(hidden), self.gate_weight, self.gate_bias), dim=-1)
        normed: Tensor = self.norm(gated + x)
        return normed


class GateNorm(nn.Module):
    """A gated linear unit, then the layer norm of its sum with a skip."""

    def __init__(self, gate: Any, norm: Any) -> None:
        """Its constants."""
        super().__init__()
        self.gate, self.norm = gate.fc, Norm(norm.norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, time, hidden]."""
        normed: Tensor = self.norm(F.glu(self.gate(x), dim=-1) + skip)
        return normed
