"""The Temporal Fusion Transformer's gated blocks on the library's own modules, dropout drawn as `dropout` says."""

from typing import Any

import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from torch import Tensor

from models.dropout import locked_dropout


def grn(module: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """A gated residual network whose input is as wide as its output. ``context``: [B, 1, hidden]."""
    return add_norm(module.gate_norm.add_norm, after_first(module, module.fc1(x), context), x)


def after_first(module: Any, x: Tensor, context: Tensor | None) -> Tensor:
    """What follows a gated residual network's first layer, up to its gate."""
    if context is not None:
        x = x + module.context(context)
    return gate(module.gate_norm.glu, module.fc2(F.elu(x)))


def gate(glu: Any, x: Tensor) -> Tensor:
    """A gated linear unit, dropout before it."""
    return F.glu(glu.fc(locked_dropout(x, glu.dropout)), dim=-1)


def add_norm(module: Any, x: Tensor, skip: Tensor) -> Tensor:
    """Layer norm of the sum; every skip of a TFT that is as wide as its block is added as it is."""
    normed: Tensor = module.norm(x + skip)
    return normed


def gate_add_norm(module: Any, x: Tensor, skip: Tensor) -> Tensor:
    """Both, one after the other."""
    return add_norm(module.add_norm, gate(module.glu, x), skip)
