"""Events as columns: one batch type from the codec to the windows, and from parquet to the stream."""

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from schemas.column_batch import ColumnBatch
from schemas.contract import Contract

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int16]
Objects = NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class EventBatch(ColumnBatch):
    """``n`` events as arrays; columns follow the contract's ``reals``, ``enums`` and ``labels``.

    Attributes:
        keys: [n] str, the server's id.
        time: [n] int64, event time in ms since the epoch.
        reals: [n, len(contract.reals)] float64; null is NaN.
        enums: [n, len(contract.enums)] int16, the symbol's position in the schema; null is -1.
        labels: [n, len(contract.labels)] object: str, bool or None.
    """

    keys: Objects
    time: Ints
    reals: Floats
    enums: Codes
    labels: Objects

    def __len__(self) -> int:
        return len(self.time)

    def sha256(self) -> str:
        """Over keys, times, numbers and enums: which data a model was trained on."""
        digest = hashlib.sha256("\n".join(self.keys).encode())
        for array in (self.time, self.reals, self.enums):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @classmethod
    def empty(cls, contract: Contract) -> Self:
        """No events of ``contract``."""
        return cls.allocate(contract, 0)

    @classmethod
    def allocate(cls, contract: Contract, n: int) -> Self:
        """``n`` events without values yet: NaN, -1 and None."""
        return cls(
            keys=np.full(n, "", dtype=object),
            time=np.zeros(n, np.int64),
            reals=np.full((n, len(contract.reals)), np.nan),
            enums=np.full((n, len(contract.enums)), -1, np.int16),
            labels=np.full((n, len(contract.labels)), None, dtype=object),
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one record of a batch cannot be used.

    Attributes:
        row: its position in the batch.
        stage: ``decode``, ``validate`` or ``late``.
        reason: one sentence with the field and the value.
    """

    row: int
    stage: str
    reason: str
