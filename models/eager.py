"""Eager PyTorch: the reference that the compiled engine is held equal to, and what runs a network just trained."""

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_forecasting import TemporalFusionTransformer

from models.block import BLOCK_ROWS
from models.forward import forward
from models.layout import Layout, Scaling
from models.network_input import network_input
from models.normalizer import denormalise
from models.windows import WindowBatch


class Eager:
    """``models.forward`` on the library's own modules."""

    block_rows = BLOCK_ROWS
    uniform = True

    def __init__(self, layout: Layout, scaling: Scaling, network: TemporalFusionTransformer) -> None:
        """``network`` is put into evaluation mode."""
        self._layout, self._scaling, self._network = layout, scaling, network.eval()

    def prepare_thread(self) -> None:
        """A block a core, one thread each: threads inside an operator wait for each other."""
        torch.set_num_threads(1)

    @torch.inference_mode()
    def run(self, windows: WindowBatch, offsets: NDArray[np.float32]) -> NDArray[np.float32]:
        """[B, targets, quantiles, horizon] in the targets' units; ``offsets``: [targets, quantiles, horizon]."""
        inputs = network_input(self._layout, self._scaling, windows)
        output = forward(self._network, inputs).permute(0, 2, 3, 1) + torch.from_numpy(offsets)
        values: NDArray[np.float32] = denormalise(
            output, inputs.center[:, :, None, None], inputs.scale[:, :, None, None]
        ).numpy()
        return values
