"""Steps of servers while their events are summed up: a row of memory each, so that one is fetched or put back at once.

In a large fleet the next event is of a server whose step is in no cache; a column for each field would miss it once a
field.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.batch import Codes, Floats, Ints, Objects
from schemas.contract import Contract

NEVER = np.iinfo(np.int64).min // 2


class Cells:
    """``n`` steps of servers, aggregated or being so; the columns are views that can be written to.

    Attributes:
        rows: [n] all columns but ``labels``. labels: [n, labels] of the latest event.
    """

    def __init__(self, rows: NDArray[Any], labels: Objects) -> None:
        """Over these arrays; see ``blank``."""
        self.rows, self.labels = rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def blank(cls, contract: Contract, n: int) -> "Cells":
        """Without an event."""
        reals, enums = len(contract.reals), len(contract.enums)
        whole = ("slot", "step", "count", "last_time", "first_offset", "closer")
        layout = np.dtype(
            [
                *((name, np.int64) for name in whole),
                ("sums", np.float64, (reals,)),
                ("counts", np.int32, (reals,)),
                ("enums", np.int16, (enums,)),
            ],
            align=True,
        )
        cells = cls(np.zeros(n, layout), np.full((n, len(contract.labels)), None, object))
        cells.last_time[:], cells.closer[:], cells.enums[:] = NEVER, -1, -1
        return cells

    @property
    def slot(self) -> Ints:
        """[n] which server."""
        return self._column("slot")

    @property
    def step(self) -> Ints:
        """[n] which step."""
        return self._column("step")

    @property
    def count(self) -> Ints:
        """[n] events."""
        return self._column("count")

    @property
    def last_time(self) -> Ints:
        """[n] event time of the latest event, which gives ``enums`` and ``labels``."""
        return self._column("last_time")

    @property
    def first_offset(self) -> Ints:
        """[n] offset of the first event."""
        return self._column("first_offset")

    @property
    def closer(self) -> Ints:
        """[n] row of the event that closed the step; -1 while open."""
        return self._column("closer")

    @property
    def sums(self) -> Floats:
        """[n, reals] of the values that are not null."""
        return self._column("sums")

    @property
    def counts(self) -> NDArray[np.int32]:
        """[n, reals] how many values are not null."""
        return self._column("counts")

    @property
    def enums(self) -> Codes:
        """[n, enums] of the latest event."""
        return self._column("enums")

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "Cells":
        """The selected cells."""
        if isinstance(rows, slice):
            return Cells(self.rows[rows], self.labels[rows])
        at = rows.nonzero()[0] if rows.dtype == np.bool_ else rows
        return Cells(self.rows.take(at), self.labels.take(at, axis=0))

    @staticmethod
    def concat(parts: "Sequence[Cells]") -> "Cells":
        """All cells, in order."""
        rows = np.concatenate([_whole(p.rows) for p in parts])
        return Cells(rows.view(parts[0].rows.dtype).reshape(-1), np.concatenate([p.labels for p in parts]))

    def put(self, cells: "Cells", at: Ints) -> None:
        """Lay ``cells`` down in the places ``at``."""
        _whole(self.rows)[at] = _whole(cells.rows)
        if self.labels.shape[1]:
            self.labels[at] = cells.labels

    def means(self) -> Floats:
        """[n, reals] mean of the values present; NaN where there was none."""
        counts = np.ascontiguousarray(self.counts)
        with np.errstate(invalid="ignore"):
            return np.where(counts > 0, self.sums / np.maximum(counts, 1), np.nan)

    def _column(self, name: str) -> NDArray[Any]:
        column: NDArray[Any] = self.rows[name]
        return column


def _whole(rows: NDArray[Any]) -> NDArray[np.int64]:
    """[n, words] the same memory: numpy moves rows of a structured type field by field, and these at once."""
    return rows.view(np.int64).reshape(len(rows), rows.dtype.itemsize // 8)
