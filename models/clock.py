"""Calendar inputs of a block of windows. Those of a tick are the same for the whole fleet, and are computed once."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.layout import Layout, clock
from models.windows import WindowBatch
from schemas.batch import Ints

_KEPT = 16  # spans of steps: a tick's blocks come one after another


class Clock:
    """The calendar of a layout."""

    def __init__(self, layout: Layout) -> None:
        self._calendar, self._horizon = layout.calendar, layout.contract.settings.horizon_steps
        self._tables, self._others = clock(layout)
        self._span = lru_cache(_KEPT)(self._span_of)

    def of(self, windows: WindowBatch) -> tuple[Ints, NDArray[np.float32], Ints]:
        """Rows [steps, tables] of the tables and [steps, others] values of the other inputs, of consecutive steps.

        And [B] where among them a window's own steps begin, that is the first one which is not padding.
        """
        begin, end = windows.last_step + 1 - windows.lengths, windows.last_step + 1 + self._horizon
        if end.max() - begin.min() <= (end - begin).sum():
            tables, others = self._span(int(begin.min()), int(end.max()))
            return tables, others, begin - begin.min()
        parts = [self._span(*ends) for ends in zip(begin.tolist(), end.tolist(), strict=True)]  # windows far apart
        first = np.concatenate([[0], np.cumsum(end - begin)[:-1]])
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), first

    def _span_of(self, begin: int, end: int) -> tuple[Ints, NDArray[np.float32]]:
        steps = np.arange(begin, end)
        rows = {name: self._calendar.rows(name, steps) for name in (*self._tables, *self._others)}
        tables = np.empty((len(steps), len(self._tables)), np.int64)
        others = np.empty((len(steps), len(self._others)), np.float32)
        for i, name in enumerate(self._tables):
            tables[:, i] = rows[name]
        for i, name in enumerate(self._others):
            others[:, i] = self._calendar.table(name)[rows[name]]
        return tables, others
