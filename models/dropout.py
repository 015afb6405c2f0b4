"""Dropout drawn once a window and unit, and shared by the window's steps.

Gal & Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks", 2016. It also costs
next to nothing, where a draw for every step costs as much as the layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

_generator: ContextVar[torch.Generator | None] = ContextVar("_generator", default=None)


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Masks of this thread are drawn from a generator of its own: threads in any order give the same masks."""
    token = _generator.set(torch.Generator().manual_seed(seed))
    try:
        yield
    finally:
        _generator.reset(token)


def locked_dropout(values: Tensor, module: nn.Module | None) -> Tensor:
    """``values`` [B, time, features] under a mask [B, 1, features], as ``module`` (an ``nn.Dropout``) says."""
    probability = module.p if isinstance(module, nn.Dropout) and module.training else 0.0
    if not probability:
        return values
    shape = (values.shape[0], 1, values.shape[-1])
    generator = _generator.get() if values.device.type == "cpu" else None
    mask = torch.empty(shape, device=values.device).bernoulli_(1 - probability, generator=generator)
    return values * mask.div_(1 - probability)
