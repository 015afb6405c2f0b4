"""What one group published against what another published from the same log, record by record.

Pure: records in, counts out. Records are kept as a key, what must be equal, and numbers that may differ in rounding.
"""

from array import array
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-5
_EXAMPLES = 5
Key = tuple[Hashable, ...]


class Record(NamedTuple):
    """One published record.

    Attributes:
        key: says which record it is; published exactly once, it is there once.
        exact: what must be equal.
        values: numbers that may differ in rounding; as many in every record of a topic.
    """

    key: Key
    exact: tuple[Hashable, ...]
    values: tuple[float, ...] = ()


@dataclass(slots=True)
class Table:
    """The records of a topic: the first of each key, and the keys of those that came again.

    Compact, since a run of half a million events makes a hundred thousand forecasts: numbers lie in one float array
    (float32, as forecasts are on the wire), never in decoded records.
    """

    rows: dict[Key, int] = field(default_factory=dict)
    exact: list[tuple[Hashable, ...]] = field(default_factory=list)
    numbers: "array[float]" = field(default_factory=lambda: array("f"))
    again: list[Key] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Table":
        """Take them all."""
        table = cls()
        for record in records:
            if record.key in table.rows:
                table.again.append(record.key)
                continue
            table.rows[record.key] = len(table.exact)
            table.exact.append(record.exact)
            table.numbers.extend(record.values)
        return table

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, keys: Iterable[Key]) -> NDArray[np.float32]:
        """[n, values of a record] of ``keys``, in their order."""
        width = len(self.numbers) // max(len(self), 1)
        everything = np.frombuffer(self.numbers, np.float32).reshape(len(self), width)
        return everything[[self.rows[key] for key in keys]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a disturbed topic differs from the undisturbed one.

    Attributes:
        records: keys of the undisturbed topic.
        lost: keys that only the undisturbed topic has. invented: keys that only the disturbed one has.
        doubled: records whose key had come before; of the disturbed topic. calm_doubled: of the undisturbed one.
        different: keys of both whose records are not equal.
        largest: largest |a - b| / (1 + |b|) of any number. identical: no bit differs.
        examples: a few keys of each fault.
    """

    records: int
    lost: int
    invented: int
    doubled: int
    calm_doubled: int
    different: int
    largest: float
    identical: bool
    examples: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Exactly once: nothing to complain about, and something was there to complain about."""
        faults = self.lost + self.invented + self.doubled + self.calm_doubled + self.different
        return self.records > 0 and not faults


def compare(calm: Table, disturbed: Table, tolerance: float = TOLERANCE) -> Verdict:
    """Every record of ``disturbed`` against the undisturbed topic's."""
    lost = [key for key in calm.rows if key not in disturbed.rows]
    invented = [key for key in disturbed.rows if key not in calm.rows]
    both = [key for key in calm.rows if key in disturbed.rows]
    unequal = np.array([calm.exact[calm.rows[k]] != disturbed.exact[disturbed.rows[k]] for k in both], bool)
    differing, identical = _differences(calm.values(both), disturbed.values(both))
    different = [both[row] for row in np.flatnonzero(unequal | (differing > tolerance))]
    faults = {"lost": lost, "invented": invented, "doubled": disturbed.again, "different": different}
    return Verdict(
        records=len(calm),
        lost=len(lost),
        invented=len(invented),
        doubled=len(disturbed.again),
        calm_doubled=len(calm.again),
        different=len(different),
        largest=float(differing.max(initial=0)),
        identical=identical and not unequal.any(),
        examples=tuple(_examples(faults, calm, disturbed)),
    )


def _differences(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[NDArray[np.float64], bool]:
    """[n] largest relative difference of each row, NaN being equal to NaN only; and whether all bits are the same."""
    if a.shape != b.shape:  # other numbers of values: not even the shape is the same
        return np.full(len(a), np.inf), False
    if not a.size:
        return np.zeros(len(a)), True
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities
        relative = np.abs(wide_a - wide_b) / (1 + np.abs(wide_b))
    relative[np.isnan(relative)] = np.inf
    relative[(wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))] = 0
    return relative.max(axis=1), np.array_equal(a.view(np.uint32), b.view(np.uint32))


def _examples(faults: dict[str, list[Key]], calm: Table, disturbed: Table) -> Iterator[str]:
    for fault, keys in faults.items():
        for key in keys[:_EXAMPLES]:
            was, now = (t.exact[t.rows[key]] if key in t.rows else () for t in (calm, disturbed))
            changed = [f"{a!r} became {b!r}" for a, b in zip(was, now, strict=False) if a != b]
            yield f"{fault}: {key}" + (f": {', '.join(changed) or 'its numbers'}" if fault == "different" else "")
