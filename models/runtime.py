"""From windows to published quantiles: one batched forward for all due servers, then named stages.

Stages after the network, in order: denormalise, bounds, sort. Windows run in blocks of one fixed shape, so that what
else happens to be due does not show in a server's numbers beyond the last bits: the place in a block still does, by up
to 4e-6 relative (rows of unaligned matrix products), far inside the 1e-4 that "equal" means here.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor

from models.layout import Layout, Scaling, network_input
from models.network import denormalise, forward
from models.windows import WindowBatch

STAGES = ("denormalise", "bounds", "sort")
BLOCK_ROWS = 16  # activations of 16 windows stay in cache: twice as fast as one big batch (docs/benchmarks.md)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Forecasts of ``B`` windows.

    Attributes:
        values: [B, targets, quantiles, horizon] float32, ascending over quantiles.
        finite: [B] False where the network gave anything that is not a finite number: such a forecast is withheld.
    """

    values: NDArray[np.float32]
    finite: NDArray[np.bool_]


class Runtime:
    """Batched inference with a trained network."""

    def __init__(self, layout: Layout, scaling: Scaling, network: TemporalFusionTransformer) -> None:
        """``network`` is put into evaluation mode."""
        self._layout = layout
        self._scaling = scaling
        self._network = network.eval()
        # A block a core, one thread each: threads inside an operator wait for each other, badly on a busy machine.
        self._workers = ThreadPoolExecutor(_cores(), "runtime", initializer=lambda: torch.set_num_threads(1))
        targets = layout.contract.targets
        self._low = torch.tensor([-np.inf if f.minimum is None else f.minimum for f in targets], dtype=torch.float32)
        self._high = torch.tensor([np.inf if f.maximum is None else f.maximum for f in targets], dtype=torch.float32)

    def forecast(self, windows: WindowBatch) -> Quantiles:
        """Quantiles of every window, after all stages."""
        raw = self.raw(windows)  # [B, H, T, Q]
        finite = torch.isfinite(raw).all(dim=(1, 2, 3))
        bounded = raw.clamp(self._low[:, None], self._high[:, None])
        ordered = bounded.sort(dim=-1).values.permute(0, 2, 3, 1).contiguous()
        return Quantiles(ordered.numpy(), finite.numpy())

    def raw(self, windows: WindowBatch) -> Tensor:
        """[B, horizon, targets, quantiles] denormalised network output, equal to the library's own ``predict()``."""
        settings = self._layout.contract.settings
        shape = (len(windows), settings.horizon_steps, len(self._layout.targets), len(settings.quantiles))
        out = torch.empty(shape)
        blocks = _blocks(windows, settings.encoder_steps)
        for rows, values in self._workers.map(self._block, blocks):
            out[rows] = values
        return out

    @torch.inference_mode()
    def _block(self, block: tuple[NDArray[np.intp], WindowBatch]) -> tuple[NDArray[np.intp], Tensor]:
        rows, windows = block
        inputs = network_input(self._layout, self._scaling, windows)
        return rows, denormalise(forward(self._network, inputs), inputs)[: len(rows)]


def _blocks(windows: WindowBatch, encoder_steps: int) -> Iterator[tuple[NDArray[np.intp], WindowBatch]]:
    """Blocks of ``BLOCK_ROWS`` windows; full and short windows apart.

    The network trims its encoder to the longest window of a batch, so a block of short ones ends with one full dummy:
    the shapes, and with them the order of every sum, are the same whoever else is in the block.
    """
    full = windows.lengths == encoder_steps
    for group, room in ((np.flatnonzero(full), BLOCK_ROWS), (np.flatnonzero(~full), BLOCK_ROWS - 1)):
        for start in range(0, len(group), room):
            rows = group[start : start + room]
            yield rows, windows.take(rows).padded(BLOCK_ROWS)


def _cores() -> int:
    """Cores that this process may use (``os.process_cpu_count`` of Python 3.13)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
