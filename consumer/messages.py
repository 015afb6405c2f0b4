"""What comes in and what goes out, without a Kafka client in sight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from schemas.batch import Ints

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Incoming:
    """One record of an input partition."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of an input partition, by column; keys and headers are looked at of refused ones alone.

    Attributes:
        offset, timestamp_ms: [n]. values: n of them.
        originals: n of whatever they came as. whole: makes a record of one.
    """

    offset: Ints
    timestamp_ms: Ints
    values: Sequence[bytes | None]
    originals: Sequence[Any]
    whole: Callable[[Any], Incoming]

    @classmethod
    def of(cls, records: Sequence[Incoming]) -> Self:
        """From records as such."""
        offset = np.array([record.offset for record in records], np.int64)
        timestamp_ms = np.array([record.timestamp_ms for record in records], np.int64)
        return cls(offset, timestamp_ms, [record.value for record in records], records, lambda record: record)

    def __len__(self) -> int:
        return len(self.originals)

    def cut(self, begin: int, end: int | None = None) -> Self:
        """Those from row ``begin`` up to ``end``."""
        part = slice(begin, end)
        return type(self)(
            self.offset[part], self.timestamp_ms[part], self.values[part], self.originals[part], self.whole
        )

    def record(self, row: int) -> Incoming:
        """One of them, whole."""
        return self.whole(self.originals[row])


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to publish; ``partition`` None leaves the choice to the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)
    partition: int | None = None

    @property
    def size(self) -> int:
        """Bytes of its value, which is most of it."""
        return len(self.value or b"")
