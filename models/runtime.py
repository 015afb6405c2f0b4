"""From windows to published quantiles: an engine for all due servers, then named stages.

Stages after the network, in order: denormalise, conformal offsets, bounds, sort. Windows run in small blocks
(``models.block``); what else happens to be due does not show in a server's numbers.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.block import Rows, blocks, no_offsets, uniform_blocks
from models.cores import cores
from models.stages_code import SPARE, stages_kernel
from models.windows import WindowBatch
from schemas.batch import Ints
from schemas.column_batch import ColumnBatch
from schemas.contract import Contract
from schemas.fields import ContractField

CONFORMAL = "conformal"
STAGES = ("denormalise", CONFORMAL, "bounds", "sort")
ENGINES = ("auto", "llvm", "torch", "cuda")
Values = NDArray[np.float32]


class Engine(Protocol):
    """Runs one block of windows; several threads may each run one.

    Attributes:
        block_rows: windows of a block; the last one may have fewer.
        uniform: all blocks have so many, and are of full windows alone or of windows with padding alone.
    """

    block_rows: int
    uniform: bool

    def prepare_thread(self) -> None:
        """Called once in each thread that will run blocks."""

    def run(self, windows: WindowBatch, offsets: Values) -> Values:
        """[B, targets, quantiles, horizon] in the targets' units.

        Args:
            windows: of a block.
            offsets: [targets, quantiles, horizon], added in the network's units.
        """


@dataclass(frozen=True, slots=True)
class Quantiles(ColumnBatch):
    """Forecasts of ``B`` windows.

    Attributes:
        values: [B, targets, quantiles, horizon] float32, ascending over quantiles.
        finite: [B] False where the network gave anything that is not a finite number: such a forecast is withheld.
        breach: [B, targets] the largest probability of a step's breach; means nothing of a target without a threshold.
        breach_step: [B, targets] the first step of the horizon at which it is 0.5 or more; ``horizon`` where none is.
    """

    values: Values
    finite: NDArray[np.bool_]
    breach: NDArray[np.float32]
    breach_step: Ints

    @classmethod
    def empty(cls, windows: int, shape: tuple[int, int, int]) -> Self:
        """Room for them; ``shape``: targets, quantiles, horizon."""
        places = (windows, shape[0])
        return cls(
            np.empty((windows, *shape), np.float32), np.empty(windows, bool),
            np.zeros(places, np.float32), np.full(places, shape[2], np.int64),
        )  # fmt: skip


class Runtime:
    """Batched inference with a trained network."""

    def __init__(self, contract: Contract, engine: Engine, offsets: Values | None = None) -> None:
        """``offsets``: [targets, quantiles, horizon], see `calibration`."""
        settings, targets = contract.settings, contract.targets
        self._shape = (len(targets), len(settings.quantiles), settings.horizon_steps)
        self._none = no_offsets(contract)
        self._offsets = self._none if offsets is None else offsets
        self._engine = engine
        self._workers = ThreadPoolExecutor(cores(), "runtime", initializer=engine.prepare_thread)
        self._rules = np.array([_rule(field) for field in targets], np.float32)
        self._levels = np.array(settings.quantiles, np.float32)
        self._stages = stages_kernel(*self._shape[1:])

    def forecast(self, windows: WindowBatch) -> Quantiles:
        """Quantiles of every window, after all stages."""
        return self.start([windows]).result()

    def start(self, batches: Sequence[WindowBatch]) -> "Started":
        """Begin to forecast, in the runtime's threads; the caller may do other work meanwhile.

        ``batches``: any number of them; the result has their rows one after another.
        """
        if not batches:
            return Started(Quantiles.empty(0, self._shape), [])
        return self._run(WindowBatch.concat(batches), self._offsets, stages=True)

    def raw(self, windows: WindowBatch) -> Values:
        """[B, targets, quantiles, horizon] denormalised network output, equal to the library's own ``predict()``."""
        return self._run(windows, self._none, stages=False).result().values

    def _run(self, windows: WindowBatch, offsets: Values, *, stages: bool) -> "Started":
        made = Quantiles.empty(len(windows), self._shape)

        def work(rows: Rows, block: WindowBatch) -> None:
            values = np.ascontiguousarray(self._engine.run(block, offsets)[: len(made.finite[rows])])
            made.finite[rows] = np.isfinite(values).all(axis=(1, 2, 3))
            if stages:
                made.breach[rows], made.breach_step[rows] = self._last_stages(values)
            made.values[rows] = values

        cut = uniform_blocks if self._engine.uniform else blocks
        return Started(made, [self._workers.submit(work, *block) for block in cut(windows, self._engine.block_rows)])

    def _last_stages(self, values: Values) -> tuple[NDArray[np.float32], Ints]:
        """Bounds, then ascending order of the quantiles where they cross, in place; and breaches, [B, targets]."""
        targets, quantiles, _ = self._shape
        rules = np.tile(self._rules, (len(values), 1))
        breaches, spare = np.empty((len(rules), 2), np.float32), np.zeros((quantiles, SPARE), np.float32)
        self._stages(values, rules, self._levels, breaches, spare, rows=len(rules))
        breach, step = breaches.reshape(-1, targets, 2).transpose(2, 0, 1)
        return breach, step.astype(np.int64)


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


def _rule(field: ContractField) -> tuple[float, ...]:
    """As the stages take it; a limit in float32 that the same float32 lie above as above the contract's number."""
    limit = field.threshold
    with np.errstate(over="ignore"):
        nearest = np.float32(limit or 0.0)
    if limit is not None and float(nearest) > limit:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    low, high = -np.inf if field.minimum is None else field.minimum, np.inf if field.maximum is None else field.maximum
    rest = np.float64(limit or 0.0) - np.float64(nearest)
    return low, high, float(nearest), float(rest) if np.isfinite(rest) else 0.0, float(field.breaches_above)
