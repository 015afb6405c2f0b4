"""The compiled engine: OpenVINO runs the folded network, one block of windows a request, one request a core.

The graph is made once from the artifact, by PyTorch in a process of its own (``models.export``), and kept in the user's
cache folder: who serves needs no PyTorch. Blocks have one fixed shape.
"""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from models.block import BLOCK_ROWS, blank_windows, no_offsets
from models.cores import cores
from models.graph_inputs import graph_arrays
from models.layout import Layout
from models.windows import WindowBatch

GRAPHS = {True: "full.xml", False: "short.xml"}


class Compiled:
    """Two graphs of one artifact: for full windows, and for windows with padding, which need a mask."""

    block_rows = BLOCK_ROWS

    def __init__(self, layout: Layout, folder: Path) -> None:
        """Compile them for this machine; ``folder`` holds what ``models.export`` made."""
        self._layout = layout
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": cores(),
            "NUM_STREAMS": cores(),
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        self._graphs = {
            full: core.compile_model(core.read_model(folder / name), "CPU", settings) for full, name in GRAPHS.items()
        }
        self._local = threading.local()
        self._warm_up()

    def _warm_up(self) -> None:
        """Run both graphs once in this thread.

        OpenVINO's bindings fill a table of types at the first request, under a lock of C++ and not under the GIL: where
        the first two requests come at once, each thread may hold what the other waits for, for ever (2026.4; seen).
        """
        windows, offsets = blank_windows(self._layout.contract, BLOCK_ROWS), no_offsets(self._layout.contract)
        for lengths in (windows.lengths, windows.lengths - 1):
            if lengths.min() > 0:
                self.run(replace(windows, lengths=lengths), offsets)

    def prepare_thread(self) -> None:
        """Requests are made per thread when first needed."""

    def run(self, windows: WindowBatch, offsets: NDArray[np.float32]) -> NDArray[np.float32]:
        """[B, targets, quantiles, horizon] of a whole block; ``offsets``: [targets, quantiles, horizon]."""
        full = bool((windows.lengths == self._layout.contract.settings.encoder_steps).all())
        arrays = graph_arrays(self._layout, windows, offsets, full=full)
        request = self._request(full)
        request.infer(arrays, share_inputs=True)
        values: NDArray[np.float32] = request.get_output_tensor(0).data.copy()
        return values

    def _request(self, full: bool) -> Any:
        requests: dict[bool, Any] = self._local.__dict__.setdefault("requests", {})
        if full not in requests:
            requests[full] = self._graphs[full].create_infer_request()
        return requests[full]
