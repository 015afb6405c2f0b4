"""Blocks of windows: what a core computes at a time."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.windows import WindowBatch
from schemas.contract import Contract

BLOCK_ROWS = 16  # on a CPU: some 4 ms of work; of fewer, handing them to threads takes a tenth
Rows = NDArray[np.intp] | slice


def blocks(windows: WindowBatch, block_rows: int) -> Iterator[tuple[Rows, WindowBatch]]:
    """Rows and windows of each block."""
    for start in range(0, len(windows), block_rows):
        rows = slice(start, min(start + block_rows, len(windows)))
        yield rows, windows.take(rows)


def uniform_blocks(windows: WindowBatch, block_rows: int) -> Iterator[tuple[Rows, WindowBatch]]:
    """Blocks of one shape, padded with more windows; full and short windows apart: only short ones need a mask."""
    full = windows.lengths == windows.reals.shape[1]
    for group in (np.flatnonzero(full), np.flatnonzero(~full)):
        for start in range(0, len(group), block_rows):
            rows = group[start : start + block_rows]
            yield rows, windows.take(rows).padded(block_rows)


def no_offsets(contract: Contract) -> NDArray[np.float32]:
    """[targets, quantiles, horizon] zeros."""
    settings = contract.settings
    return np.zeros((len(contract.targets), len(settings.quantiles), settings.horizon_steps), np.float32)


def blank_windows(contract: Contract, rows: int) -> WindowBatch:
    """Full windows of zeros."""
    encoder, horizon = contract.settings.encoder_steps, contract.settings.horizon_steps
    lagged = len(contract.targets) if "season_lag" in contract.settings.known else 0
    return WindowBatch(
        reals=np.zeros((rows, encoder, len(contract.inputs)), np.float32),
        categories=np.zeros((rows, encoder, len(contract.categories)), np.int64),
        statics=np.zeros((rows, len(contract.statics)), np.int64),
        lengths=np.full(rows, encoder, np.int64),
        held=np.zeros(rows, np.int64),
        last_step=np.zeros(rows, np.int64),
        lag=np.zeros((rows, encoder + horizon, lagged), np.float32),
    )
