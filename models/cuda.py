"""PyTorch on a CUDA device: the folded network, each of its graphs captured once and replayed (CUDA graphs).

Blocks are larger than a CPU's, since a device is idle in small ones. Chosen by name alone (``FLEETCAST_ENGINE=cuda``):
which card happens to be there must not decide which numbers are published.
"""

import copy
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_forecasting import TemporalFusionTransformer

from models.block import blank_windows, no_offsets
from models.folded import Folded
from models.graph_inputs import graph_arrays
from models.layout import Layout, Scaling
from models.windows import WindowBatch
from schemas.errors import InputError

DEVICE_ROWS = 128  # as many windows as a partition hands out at once
_WARM_UPS = 3  # before a capture, so that libraries have chosen their kernels (torch.cuda.graph's notes)


class Cuda:
    """Two graphs of one artifact: for full windows, and for windows with padding, which need a mask."""

    block_rows = DEVICE_ROWS
    uniform = True

    def __init__(
        self, layout: Layout, scaling: Scaling, network: TemporalFusionTransformer, device: str = "cuda"
    ) -> None:
        """Fold the network, and move it to ``device``; on ``cpu`` the same without a capture.

        Raises:
            InputError: there is no such device.
        """
        if device != "cpu" and not torch.cuda.is_available():
            raise InputError("engine 'cuda': PyTorch finds no CUDA device here")
        self._layout = layout
        self._lock = threading.Lock()  # a graph's inputs are places in memory
        # Three decimal digits of TensorFloat-32 are too few beside the reference.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        rows, offsets = blank_windows(layout.contract, self.block_rows), no_offsets(layout.contract)
        self._graphs = {
            full: _Graph(
                copy.deepcopy(Folded(layout, scaling, network.eval(), full=full)).eval().to(device),
                graph_arrays(layout, rows, offsets, full=full),
                device,
            )
            for full in (True, False)
        }

    def prepare_thread(self) -> None:
        """Threads prepare blocks; the device runs one at a time."""

    def run(self, windows: WindowBatch, offsets: NDArray[np.float32]) -> NDArray[np.float32]:
        """[B, targets, quantiles, horizon] of a whole block; ``offsets``: [targets, quantiles, horizon]."""
        full = bool((windows.lengths == self._layout.contract.settings.encoder_steps).all())
        arrays = graph_arrays(self._layout, windows, offsets, full=full)
        with self._lock:
            values: NDArray[np.float32] = self._graphs[full].run(arrays)
        return values


class _Graph:
    """The network at fixed shapes."""

    @torch.inference_mode()
    def __init__(self, network: Folded, arrays: list[NDArray[Any]], device: str) -> None:
        self._network = network
        self._inputs = [torch.from_numpy(array).to(device) for array in arrays]
        self._captured: torch.cuda.CUDAGraph | None = None
        self._device = device
        if device != "cpu":
            self._capture()

    def _capture(self) -> None:
        with torch.device(self._device):  # what the network makes on its way is made there
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._network(*self._inputs)
            torch.cuda.current_stream().wait_stream(stream)
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                self._output = self._network(*self._inputs)
        self._captured = captured

    @torch.inference_mode()
    def run(self, arrays: list[NDArray[Any]]) -> NDArray[np.float32]:
        """The network's output; ``arrays`` as in ``graph_arrays``."""
        for held, array in zip(self._inputs, arrays, strict=True):
            held.copy_(torch.from_numpy(array))
        if self._captured is None:
            self._output = self._network(*self._inputs)
        else:
            self._captured.replay()
        values: NDArray[np.float32] = self._output.cpu().numpy()
        return values
