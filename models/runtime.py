"""From windows to published quantiles: an engine for all due servers, then named stages.

Stages after the network, in order: denormalise, conformal offsets, bounds, sort. Windows run in blocks of one fixed
shape (``models.block``), so that what else happens to be due does not show in a server's numbers.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.block import blocks, no_offsets
from models.cores import cores
from models.windows import WindowBatch
from schemas.contract import Contract

CONFORMAL = "conformal"
STAGES = ("denormalise", CONFORMAL, "bounds", "sort")
ENGINES = ("auto", "openvino", "torch", "cuda")
Values = NDArray[np.float32]


class Engine(Protocol):
    """Runs one block of windows; several threads may each run one.

    Attributes:
        block_rows: windows of a block.
    """

    block_rows: int

    def prepare_thread(self) -> None:
        """Called once in each thread that will run blocks."""

    def run(self, windows: WindowBatch, offsets: Values) -> Values:
        """[B, targets, quantiles, horizon] in the targets' units.

        Args:
            windows: all full, or all with padding.
            offsets: [targets, quantiles, horizon], added in the network's units.
        """


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Forecasts of ``B`` windows.

    Attributes:
        values: [B, targets, quantiles, horizon] float32, ascending over quantiles.
        finite: [B] False where the network gave anything that is not a finite number: such a forecast is withheld.
    """

    values: Values
    finite: NDArray[np.bool_]

    def take(self, rows: slice) -> "Quantiles":
        """Those of some of the windows."""
        return Quantiles(self.values[rows], self.finite[rows])


class Runtime:
    """Batched inference with a trained network."""

    def __init__(self, contract: Contract, engine: Engine, offsets: Values | None = None) -> None:
        """``offsets``: [targets, quantiles, horizon], see `calibration`."""
        settings, targets = contract.settings, contract.targets
        self._shape = (len(targets), len(settings.quantiles), settings.horizon_steps)
        self._encoder_steps = settings.encoder_steps
        self._none = no_offsets(contract)
        self._offsets = self._none if offsets is None else offsets
        self._engine = engine
        self._workers = ThreadPoolExecutor(cores(), "runtime", initializer=engine.prepare_thread)
        low = [-np.inf if f.minimum is None else f.minimum for f in targets]
        high = [np.inf if f.maximum is None else f.maximum for f in targets]
        self._low, self._high = (np.array(bound, np.float32)[:, None, None] for bound in (low, high))

    def forecast(self, windows: WindowBatch) -> Quantiles:
        """Quantiles of every window, after all stages."""
        return self.start([windows]).result()

    def start(self, batches: Sequence[WindowBatch]) -> "Started":
        """Begin to forecast, in the runtime's threads; the caller may do other work meanwhile.

        ``batches``: any number of them; the result has their rows one after another.
        """
        if not batches:
            return Started(Quantiles(np.empty((0, *self._shape), np.float32), np.empty(0, bool)), [])
        return self._run(WindowBatch.concat(batches), self._offsets, self._last_stages)

    def raw(self, windows: WindowBatch) -> Values:
        """[B, targets, quantiles, horizon] denormalised network output, equal to the library's own ``predict()``."""
        return self._run(windows, self._none, lambda values: values).result().values

    def _run(self, windows: WindowBatch, offsets: Values, stages: Callable[[Values], Values]) -> "Started":
        values, finite = np.empty((len(windows), *self._shape), np.float32), np.empty(len(windows), bool)

        def work(rows: NDArray[np.intp], padded: WindowBatch) -> None:
            found = self._engine.run(padded, offsets)[: len(rows)]
            finite[rows] = np.isfinite(found).all(axis=(1, 2, 3))
            values[rows] = stages(found)

        cut = blocks(windows, self._encoder_steps, self._engine.block_rows)
        parts = [self._workers.submit(work, *block) for block in cut]
        return Started(Quantiles(values, finite), parts)

    def _last_stages(self, values: Values) -> Values:
        """Bounds, then ascending order of the quantiles where they cross."""
        np.clip(values, self._low, self._high, out=values)
        crossing = (values[:, :, 1:] < values[:, :, :-1]).any(axis=(1, 2, 3))
        if crossing.any():
            values[crossing] = _ascending(values[crossing])
        return values


class Started:
    """Forecasts on their way."""

    def __init__(self, quantiles: Quantiles, parts: "list[Future[None]]") -> None:
        """``quantiles`` are whole when all ``parts`` are done."""
        self._quantiles, self._parts = quantiles, parts

    def result(self) -> Quantiles:
        """Wait for all of them."""
        for part in self._parts:
            part.result()
        return self._quantiles


def _ascending(values: Values) -> Values:
    """Sort over the quantiles by exchanging neighbours: few, and along the fast axis, where ``np.sort`` copies."""
    levels = values.shape[2]
    for turn in range(levels):
        low, high = values[:, :, turn % 2 : levels - 1 : 2], values[:, :, turn % 2 + 1 :: 2]
        smaller = np.minimum(low, high)
        np.maximum(low, high, out=high)
        low[...] = smaller
    return values
