"""From windows to published quantiles: one batched forward for all due servers, then named stages.

Stages after the network, in order: denormalise, conformal offsets, bounds, sort. Windows run in blocks of one fixed
shape, so that what else happens to be due does not show in a server's numbers beyond the last bits: the place in a
block still does, by up to 4e-6 relative (rows of unaligned matrix products), far inside the 1e-4 that "equal" means.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor

from models.cores import cores
from models.forward import forward
from models.layout import Layout, Scaling, network_input
from models.normalizer import denormalise
from models.windows import WindowBatch

CONFORMAL = "conformal"
STAGES = ("denormalise", CONFORMAL, "bounds", "sort")
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

    def __init__(
        self,
        layout: Layout,
        scaling: Scaling,
        network: TemporalFusionTransformer,
        offsets: NDArray[np.float32] | None = None,
    ) -> None:
        """``network`` is put into evaluation mode. ``offsets``: [targets, quantiles, horizon], see `calibration`."""
        # [horizon, targets, quantiles], as the network's output
        self._offsets = None if offsets is None else torch.from_numpy(offsets).permute(2, 0, 1).contiguous()
        self._layout = layout
        self._scaling = scaling
        self._network = network.eval()
        # A block a core, one thread each: threads inside an operator wait for each other, badly on a busy machine.
        self._workers = ThreadPoolExecutor(cores(), "runtime", initializer=lambda: torch.set_num_threads(1))
        targets = layout.contract.targets
        self._low = torch.tensor([-np.inf if f.minimum is None else f.minimum for f in targets], dtype=torch.float32)
        self._high = torch.tensor([np.inf if f.maximum is None else f.maximum for f in targets], dtype=torch.float32)

    def forecast(self, windows: WindowBatch) -> Quantiles:
        """Quantiles of every window, after all stages."""
        values = self._run(windows, self._offsets)  # [B, H, T, Q]
        finite = torch.isfinite(values).all(dim=(1, 2, 3))
        bounded = values.clamp(self._low[:, None], self._high[:, None])
        ordered = bounded.sort(dim=-1).values.permute(0, 2, 3, 1).contiguous()
        return Quantiles(ordered.numpy(), finite.numpy())

    def raw(self, windows: WindowBatch) -> Tensor:
        """[B, horizon, targets, quantiles] denormalised network output, equal to the library's own ``predict()``."""
        return self._run(windows, None)

    def _run(self, windows: WindowBatch, offsets: Tensor | None) -> Tensor:
        settings = self._layout.contract.settings
        shape = (len(windows), settings.horizon_steps, len(self._layout.targets), len(settings.quantiles))
        out = torch.empty(shape)
        blocks = _blocks(windows, settings.encoder_steps)
        for rows, values in self._workers.map(self._block, blocks, itertools.repeat(offsets)):
            out[rows] = values
        return out

    @torch.inference_mode()
    def _block(
        self, block: tuple[NDArray[np.intp], WindowBatch], offsets: Tensor | None
    ) -> tuple[NDArray[np.intp], Tensor]:
        rows, windows = block
        inputs = network_input(self._layout, self._scaling, windows)
        output = forward(self._network, inputs)
        if offsets is not None:
            output = output + offsets  # in the network's units
        center, scale = inputs.center[:, None, :, None], inputs.scale[:, None, :, None]
        return rows, denormalise(output, center, scale)[: len(rows)]


def _blocks(windows: WindowBatch, encoder_steps: int) -> Iterator[tuple[NDArray[np.intp], WindowBatch]]:
    """Blocks of ``BLOCK_ROWS`` windows; full and short windows apart, since only short ones need a mask."""
    full = windows.lengths == encoder_steps
    for group in (np.flatnonzero(full), np.flatnonzero(~full)):
        for start in range(0, len(group), BLOCK_ROWS):
            rows = group[start : start + BLOCK_ROWS]
            yield rows, windows.take(rows).padded(BLOCK_ROWS)
