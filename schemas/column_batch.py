"""Records as columns: dataclasses with slots whose fields are arrays of one length."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np


class ColumnBatch:
    """Base of such dataclasses."""

    __slots__: tuple[str, ...] = ()

    def take(self, rows: Any) -> Self:
        """The rows that an index, mask or slice selects, in that order."""
        return type(self)(*[getattr(self, name)[rows] for name in self.__slots__])

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """All rows of ``batches`` (at least one), in order."""
        if len(batches) == 1:
            return batches[0]
        return cls(*[np.concatenate([getattr(batch, name) for batch in batches]) for name in cls.__slots__])
