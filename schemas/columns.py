"""Which fields of a record become which columns of an ``EventBatch``: a contract's events, or what is made of them."""

from dataclasses import dataclass

import numpy as np

from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.fields import ContractField


@dataclass(frozen=True)
class Flag:
    """A field of which only yes or no is kept, as codes 1 and 0 in columns behind those of the enums.

    A boolean has one column; a text with ``same`` has one, which says whether it is that; an array of texts with
    ``names`` has one a name, which says whether it is among them.
    """

    name: str
    same: str | None = None
    names: tuple[str, ...] | None = None

    @property
    def columns(self) -> int:
        """How many it has."""
        return 1 if self.names is None else len(self.names)


@dataclass(frozen=True)
class Columns:
    """The columns of one kind of record.

    Attributes:
        time_units: the record's time is divided by that.
        ignored: names of integers that have to be there, and are not kept.
    """

    key: ContractField
    time: ContractField
    reals: tuple[ContractField, ...]
    enums: tuple[ContractField, ...]
    labels: tuple[ContractField, ...]
    time_units: int = 1
    flags: tuple[Flag, ...] = ()
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, record: "Contract | Columns") -> "Columns":
        """Those of a contract's events."""
        if isinstance(record, Columns):
            return record
        contract = record
        return cls(
            contract.key, contract.time, contract.reals, contract.enums, contract.labels, contract.time_units_per_ms
        )

    @property
    def codes(self) -> int:
        """Columns of the enums and flags."""
        return len(self.enums) + sum(flag.columns for flag in self.flags)

    def placed(self) -> list[tuple[Flag, int]]:
        """Each flag with its first column."""
        ends = np.cumsum([len(self.enums), *(flag.columns for flag in self.flags)]).tolist()
        return list(zip(self.flags, ends[:-1], strict=True))

    def allocate(self, n: int) -> EventBatch:
        """``n`` rows without values yet, as ``EventBatch.allocate`` makes them."""
        return EventBatch(
            keys=np.full(n, "", dtype=object),
            time=np.zeros(n, np.int64),
            reals=np.full((n, len(self.reals)), np.nan),
            enums=np.full((n, self.codes), -1, np.int16),
            labels=np.full((n, len(self.labels)), None, dtype=object),
        )
