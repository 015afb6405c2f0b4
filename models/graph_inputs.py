"""The arrays that the folded network takes, from windows; numpy alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.layout import Layout, clock, relative_steps
from models.windows import WindowBatch


def graph_inputs(layout: Layout, *, full: bool) -> list[str]:
    """Names of the arrays, in the graph's order: those that the contract gives rise to; ``lengths`` for short windows.

    ``reals`` [B, encoder, inputs] targets, then covariates, right-padded.
    ``offsets`` [targets, quantiles, horizon] conformal ones, in the network's units.
    ``lengths`` [B] steps that are not padding.
    ``codes`` [B, encoder, categories] and ``statics`` [B, statics]: positions of symbols in the schema.
    ``clock_rows`` [B, encoder + horizon, tables] rows of the calendar's tables.
    ``clock`` [B, encoder + horizon, others] calendar inputs that are no tables.
    ``lag`` [B, encoder + horizon, targets].
    """
    tables, others = clock(layout)
    wanted = {
        "reals": True, "offsets": True, "lengths": not full, "codes": layout.categories, "statics": layout.statics,
        "clock_rows": tables, "clock": others, "lag": layout.lags,
    }  # fmt: skip
    return [name for name, there in wanted.items() if there]


def graph_arrays(
    layout: Layout, windows: WindowBatch, offsets: NDArray[np.float32], *, full: bool
) -> list[NDArray[Any]]:
    """Those arrays."""
    given: dict[str, NDArray[Any]] = {
        "reals": windows.reals,
        "offsets": offsets,
        "lengths": windows.lengths,
        "codes": windows.categories,
        "statics": windows.statics,
        "lag": windows.lag,
    }
    names = graph_inputs(layout, full=full)
    tables, others = clock(layout)
    if tables or others:
        steps = windows.last_step[:, None] + 1 + relative_steps(layout, windows.lengths)
        rows = {name: layout.calendar.rows(name, steps) for name in (*tables, *others)}
        if tables:
            given["clock_rows"] = np.stack([rows[name] for name in tables], axis=-1)
        if others:
            given["clock"] = np.stack([layout.calendar.table(name)[rows[name]] for name in others], axis=-1)
    return [given[name] for name in names]
