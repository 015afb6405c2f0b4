"""Gaps: they depend on the server alone (design, "Event time, and exactly once").

When a server's next observed step closes, a gap of at most ``max_gap_steps`` is filled with held steps first (count 0,
last values). A longer one starts the window afresh. Inputs that are absent for a whole step are carried over.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.batch import Codes, Floats, Ints, Objects
from schemas.column_batch import ColumnBatch

NONE = -1  # the last step of a window that holds none


@dataclass(slots=True)
class Rows(ColumnBatch):
    """Rows by server and step while they are appended; ``prior`` rows stand for what the window held before."""

    slot: Ints
    step: Ints
    prior: NDArray[np.bool_]
    count: Ints
    closer: Ints
    reals: Floats
    enums: Codes
    labels: Objects
    held: NDArray[np.bool_]
    held_inputs: NDArray[np.bool_]
    fresh: NDArray[np.bool_]


def fill(rows: Rows, inputs: int, max_gap: int) -> Rows:
    """Mark the rows that start a window afresh, carry over absent inputs, and insert the held steps."""
    gap = np.diff(rows.step, prepend=NONE) - 1
    gap[rows.prior] = 0
    before_none = np.append(False, rows.prior[:-1] & (rows.step[:-1] == NONE))
    rows.fresh = ~rows.prior & (before_none | (gap > max_gap))
    gap[rows.fresh] = 0
    _carry_over(rows, inputs)
    return _insert_held(rows, gap, inputs)


def _carry_over(rows: Rows, inputs: int) -> None:
    values = rows.reals[:, :inputs]
    index = np.arange(len(values))
    begin = np.maximum.accumulate(np.where(rows.prior | rows.fresh, index, 0))
    present = ~np.isnan(values)
    if present.all():
        return
    source = np.maximum.accumulate(np.where(present, index[:, None], -1), axis=0)
    found = source >= begin[:, None]
    carried = np.take_along_axis(values, np.maximum(source, 0), axis=0)
    rows.held_inputs = ~present & found & ~rows.prior[:, None]
    rows.reals[:, :inputs] = np.where(found, carried, np.nan)


def _insert_held(rows: Rows, gap: Ints, inputs: int) -> Rows:
    if not gap.any():
        return rows
    index = np.repeat(np.arange(len(gap)), gap + 1)
    ends = np.cumsum(gap + 1)
    back = ends[index] - 1 - np.arange(len(index))  # 0 for the row itself, k for the k-th step before it
    held = back > 0
    source = index - held  # held steps repeat the row before
    held_inputs = rows.held_inputs[index]
    held_inputs[held] = ~np.isnan(rows.reals[source[held], :inputs])
    return Rows(
        slot=rows.slot[index],
        step=rows.step[index] - back,
        prior=rows.prior[index] & ~held,
        count=np.where(held, 0, rows.count[index]),
        closer=rows.closer[index],
        reals=rows.reals[source],
        enums=rows.enums[source],
        labels=rows.labels[source],
        held=held,
        held_inputs=held_inputs,
        fresh=rows.fresh[index],
    )
