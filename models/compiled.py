"""The compiled engine: the network as one function that LLVM compiles for the CPU at hand, a block of windows a core.

Its weights are laid out once from the artifact, by PyTorch in a process of its own (``models.export``), and kept in the
user's cache folder: who serves needs no PyTorch.
"""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.block import BLOCK_ROWS
from models.clock import Clock
from models.kernel import aligned
from models.layout import Layout
from models.network_code import STEPS, network_kernel, scratch, turns, variables
from models.network_shape import NetworkShape, Places
from models.windows import WindowBatch

WEIGHTS, SHAPE = "weights.npy", "shape.json"


class Compiled:
    """The artifact's network for the CPU at hand."""

    block_rows = BLOCK_ROWS
    uniform = False

    def __init__(self, layout: Layout, folder: Path) -> None:
        """Compile it; ``folder`` holds what ``models.export`` made.

        Raises:
            OSError, EOFError, ValueError: it does not, or not any more.
        """
        self._clock = Clock(layout)
        self._shape = NetworkShape.model_validate_json((folder / SHAPE).read_text(encoding="utf-8"))
        weights, size = np.load(folder / WEIGHTS), Places(self._shape.weights()).size
        if weights.shape != (size,) or weights.dtype != np.float32:
            raise ValueError(f"{folder / WEIGHTS} holds {weights.dtype} {weights.shape}, not {size} float32")
        self._weights = aligned(size)
        self._weights[:] = weights
        self._network = network_kernel(self._shape)
        self._local = threading.local()

    def prepare_thread(self) -> None:
        """Memory is taken per thread when first needed."""

    def run(self, windows: WindowBatch, offsets: NDArray[np.float32]) -> NDArray[np.float32]:
        """[B, targets, quantiles, horizon] of a block; ``offsets``: [targets, quantiles, horizon].

        Raises:
            ValueError: there are more windows than in a block, or they are of other sizes.
        """
        self._check(windows)
        shape, mine = self._shape, self._thread()
        outputs = shape.targets * shape.quantiles
        mine.offsets[: shape.horizon, :outputs] = offsets.reshape(outputs, shape.horizon).T
        rows, others, first = self._clock.of(windows)
        arrays = windows.reals, windows.categories, windows.statics, windows.lag, windows.lengths, rows, others, first
        given: list[Any] = [np.ascontiguousarray(array) for array in arrays]
        self._network(*given, mine.offsets, self._weights, mine.scratch, mine.places, mine.result, rows=len(windows))
        values = mine.result[: len(windows), : shape.horizon, :outputs].transpose(0, 2, 1)
        return values.copy(order="C").reshape(len(windows), *offsets.shape)

    def _check(self, windows: WindowBatch) -> None:
        """The function looks at no array's size."""
        shape = self._shape
        found = windows.reals.shape[1:], windows.categories.shape[1:], windows.statics.shape[1:], windows.lag.shape[1:]
        steps = shape.encoder + shape.horizon
        wanted = (shape.encoder, shape.inputs), (shape.encoder, shape.categories), (shape.statics,), (steps, shape.lags)
        inside = windows.lengths.min() >= 1 and windows.lengths.max() <= shape.encoder
        if found != wanted or len(windows) > self.block_rows or not inside:
            raise ValueError(f"{len(windows)} windows of sizes {found}, not at most {self.block_rows} of {wanted}")

    def _thread(self) -> "_Memory":
        if "memory" not in self._local.__dict__:
            self._local.memory = _Memory(self._shape)
        mine: _Memory = self._local.memory
        return mine


class _Memory:
    """What one thread writes to."""

    def __init__(self, shape: NetworkShape) -> None:
        horizon = turns(shape.horizon)
        self.offsets = aligned(horizon, shape.outputs)
        self.scratch = aligned(scratch(shape).size)
        self.places = np.zeros((STEPS, variables(shape)), np.int64)
        self.result = aligned(BLOCK_ROWS, horizon, shape.outputs)
