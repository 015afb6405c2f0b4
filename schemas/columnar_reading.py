"""Many Avro records at once: every field is one gather over all rows, in numpy.

A message's bytes stand one after the other in one buffer, and each row has a cursor. Whatever is unusual in a row (a
long varint, an index out of range, bytes missing or left over, text that is not UTF-8) marks it odd: its values mean
nothing, and it is for the caller to read it again by itself. No byte takes a cursor out of the buffer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.batch import EventBatch, Ints, Objects
from schemas.columns import Columns
from schemas.contract import Contract
from schemas.name_arrays import NameArrays
from schemas.text_cache import TextCache
from schemas.writer_plan import UNKNOWN, Plan, Run, Step

Mask = NDArray[np.bool_]
Words = NDArray[np.uint64]
Rows = Ints | slice
_BOOLEANS = np.array([False, True], dtype=object)
_NULLS: dict[str, Any] = {"real": np.nan, "enum": np.int16(-1), "label": None, "key": None}
_NULLS |= dict.fromkeys(("time", "flag", "same"), 0)  # of rows that are odd then
_LONGEST_LOAD = 128  # a cached text's words, or a varint's; a run is within the plan's reach
_STOPS = np.uint64(0x8080808080808080)
_SEVENS = np.uint64(0x7F7F7F7F7F7F7F7F)
_ONE = np.uint64(1)
# Neighbouring groups of 7, then 14, then 28 bits move together: mask of the lower, mask of the upper, distance.
_SQUEEZES = tuple(
    (np.uint64(low), np.uint64(high), np.uint64(by))
    for low, high, by in (
        (0x007F007F007F007F, 0x7F007F007F007F00, 1),
        (0x00003FFF00003FFF, 0x3FFF00003FFF0000, 2),
        (0x000000000FFFFFFF, 0x0FFFFFFF00000000, 4),
    )
)


class Buffer:
    """Messages one after the other, to be loaded from at any byte.

    Attributes:
        data: the bytes; zeros behind the last message.
        starts: [n] where each message begins.
        ends: [n] where it ends.
    """

    def __init__(self, messages: Sequence[bytes], padding: int) -> None:
        """Join ``messages``; a cursor up to ``padding`` bytes behind a message's end may be loaded from."""
        self.data = b"".join([*messages, bytes(padding + _LONGEST_LOAD)])
        lengths = np.fromiter(map(len, messages), np.int64, len(messages))
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths
        self._bytes = np.frombuffer(self.data, np.uint8)

    def octets(self, at: Ints) -> NDArray[np.uint8]:
        """[n] the byte at each position."""
        return self._bytes[at]

    def load(self, at: Ints, dtype: str) -> Any:
        """[n] the values of a type at each position, aligned or not."""
        return self.block(at, np.dtype(dtype).itemsize).view(dtype)

    def block(self, at: Ints, width: int) -> NDArray[np.void]:
        """[n] ``width`` bytes from each position."""
        # Opaque bytes are copied about twice as fast as numbers that are not aligned.
        overlapping = np.ndarray((len(self.data) - width + 1,), f"V{width}", self.data, 0, (1,))
        return overlapping[at]

    def same(self, at: Ints, raw: bytes) -> Mask:
        """[n] whether ``raw`` stands at each position."""
        if not raw:
            return np.ones(len(at), bool)
        # Bytes that numpy takes for text are compared at once; zeros at the end, which it cuts, it fills up again.
        equal: Mask = self.block(at, len(raw)).view(f"S{len(raw)}") == np.bytes_(raw)
        return equal


def varints(buffer: Buffer, at: Ints) -> tuple[Ints, Ints, Mask]:
    """Zigzag varints of up to 8 bytes.

    Returns:
        [n] values; [n] widths in bytes; [n] whether it is longer, so that the value means nothing.
    """
    word: Words = buffer.load(at, "<u8")
    stops = ~word & _STOPS
    upto = stops ^ (stops - _ONE)  # all bits up to the first byte whose highest is not set
    word &= upto & _SEVENS
    for low, high, by in _SQUEEZES:
        word = (word & low) | ((word & high) >> by)
    values = (word >> _ONE).view(np.int64) ^ -(word & _ONE).view(np.int64)
    return values, (np.bitwise_count(upto) >> 3).astype(np.int64), stops == 0


class ColumnarReader:
    """Reads whole batches of one kind of record; keeps the texts it has seen."""

    def __init__(self, record: Contract | Columns) -> None:
        columns = Columns.of(record)
        self._memory = _Memory(columns, {("key", 0): TextCache()}, {}, {})
        for column, field in enumerate(columns.labels):
            if field.avro == "string":
                self._memory.texts["label", column] = TextCache()
        for flag, column in columns.placed():
            if flag.same is not None:
                self._memory.same[column] = flag.same.encode()
            elif flag.names is not None:
                self._memory.names[column] = NameArrays(flag.names)

    def read(self, buffer: Buffer, rows: Rows, skipped: int, plan: Plan) -> tuple[EventBatch, Mask]:
        """The messages ``rows`` of ``buffer``, which all follow ``plan``.

        Args:
            buffer: padded with ``plan.reach`` at least.
            rows: which messages, each of ``skipped`` bytes at least.
            skipped: bytes before each value.
            plan: of the writer's schema.

        Returns:
            [n] events; [n] whether the row is odd: its event means nothing.
        """
        reading = _Reading(self._memory, buffer, buffer.ends[rows])
        at = buffer.starts[rows] + skipped
        with np.errstate(invalid="ignore"):  # a float's signalling NaN, which becomes a quiet one
            for part in plan.parts:
                at = reading.run(part, at) if isinstance(part, Run) else reading.step(part, slice(None), at)
        reading.odd |= at != reading.ends
        for sink, column, value in plan.constants:
            reading.put(sink, column, slice(None), value)
        return reading.events(), reading.odd


@dataclass(frozen=True)
class _Memory:
    """What outlives a batch, by column: texts that were seen, those to compare with, and arrays that were seen."""

    columns: Columns
    texts: dict[tuple[str, int], TextCache]
    same: dict[int, bytes]
    names: dict[int, NameArrays]


class _Reading:
    """The columns of one batch while they are read; reals and enums lie by column, which is how they come."""

    def __init__(self, memory: _Memory, buffer: Buffer, ends: Ints) -> None:
        n, columns = len(ends), memory.columns
        self._memory, self._buffer = memory, buffer
        self.ends = ends
        self.odd = np.zeros(n, bool)
        self._keys: Objects = np.empty(n, object)
        self._time = np.zeros(n, np.int64)
        self._reals = np.empty((len(columns.reals), n))
        self._enums = np.empty((columns.codes, n), np.int16)
        self._labels = np.empty((len(columns.labels), n), object)

    def events(self) -> EventBatch:
        """[n] what was read."""
        units = self._memory.columns.time_units
        return EventBatch(
            self._keys,
            self._time if units == 1 else self._time // units,
            np.ascontiguousarray(self._reals.T),
            np.ascontiguousarray(self._enums.T),
            np.ascontiguousarray(self._labels.T),
        )

    def put(self, sink: str, column: int, rows: Rows, values: Any) -> None:
        """Set a column at ``rows``."""
        if sink == "real":
            self._reals[column, rows] = values
        elif sink in ("enum", "flag", "same"):
            self._enums[column, rows] = values
        elif sink == "label":
            self._labels[column, rows] = values
        elif sink == "key":
            self._keys[rows] = values
        else:
            self._time[rows] = values

    def run(self, run: Run, at: Ints) -> Ints:
        """Read fields of one width, as if nothing were null; then the rows in which that fails, field by field.

        Returns:
            [n] where the next field begins.
        """
        block = self._buffer.block(at, run.width)
        strange = np.zeros(len(at), bool)
        for step, offset in run.steps:
            failed = self._member(step, block, offset, run.width)
            if failed is not None:
                strange |= failed
        after = at + run.width
        again = strange.nonzero()[0]
        if len(again):
            cursor = at[again]
            for step, _ in run.steps:
                cursor = self.step(step, again, cursor)
            after[again] = cursor
        return after

    def _member(self, step: Step, block: NDArray[np.void], offset: int, width: int) -> Mask | None:
        """One field of a run. [n] whether the row has to be read step by step; None if that cannot be."""

        def column(dtype: str, at: int) -> Any:
            return np.ndarray((len(block),), dtype, block, at, (width,))

        failed: Mask | None = None
        if step.kind == "enum":
            codes = step.codes.take(column("u1", offset))
            if step.sink == "enum":
                self._enums[step.column] = codes
            failed = codes == UNKNOWN
        elif step.kind == "boolean":
            octets = column("u1", offset)
            if step.sink == "flag":
                self._enums[step.column] = octets & 1
            elif step.sink == "label":
                self._labels[step.column] = _BOOLEANS.take(octets & 1)
            failed = octets > 1
        elif step.sink == "real":
            values = self._reals[step.column]
            values[:] = column("<f8" if step.kind == "double" else "<f4", offset)
            failed = np.isnan(values) if step.nullable else None
        if not step.tagged:
            return failed
        untagged: Mask = column("u1", offset - 1) != step.value_tag
        return untagged if failed is None else untagged | failed

    def step(self, step: Step, rows: Rows, at: Ints) -> Ints:
        """Read one field of ``rows``, of which the n cursors are ``at``.

        Returns:
            [n] where the next field begins.
        """
        null = None
        if step.tagged:
            tag = self._buffer.octets(at)
            null = tag == step.null_tag
            strange = tag != step.value_tag
            if step.nullable:
                strange &= ~null
            self.odd[rows] |= strange
            at = at + 1
        width = self._value(step, rows, at, null)
        return at + width if null is None else at + np.where(null, 0, width)

    def _value(self, step: Step, rows: Rows, at: Ints, null: Mask | None) -> Any:
        """Read the values at ``at`` (whatever lies there where ``null``). [n] or one number, their widths in bytes."""
        if step.kind in ("string", "bytes"):
            return self._text(step, rows, at, null)
        if step.kind == "array":
            return self._names(step, rows, at)
        if step.kind == "boolean":
            octets = self._buffer.octets(at)
            values = octets & 1
            self._keep(step, rows, values if step.sink == "flag" else _BOOLEANS.take(values), octets > 1, null)
            return 1
        if step.kind in ("double", "float"):
            values = self._buffer.load(at, "<f8" if step.kind == "double" else "<f4").astype(np.float64)
            self._keep(step, rows, values, np.isnan(values) if step.nullable else None, null)
            return 8 if step.kind == "double" else 4
        if step.kind in ("null", "fixed"):
            return step.size
        numbers, width, long = varints(self._buffer, at)
        if step.kind == "enum":
            codes, long = _by_index(step, numbers, long)
            self._keep(step, rows, codes, long, null)
        else:
            self._keep(step, rows, numbers, long, null)
        return width

    def _keep(self, step: Step, rows: Rows, values: Any, strange: Mask | None, null: Mask | None) -> None:
        """Put [n] values where they belong, and null where it is; ``strange`` rows that are not null are odd."""
        if strange is not None:
            self.odd[rows] |= strange if null is None else strange & ~null
        if step.sink == "skip":
            return
        if null is not None:
            values = np.where(null, _NULLS[step.sink], values)
        self.put(step.sink, step.column, rows, values)

    def _text(self, step: Step, rows: Rows, at: Ints, null: Mask | None) -> Ints:
        """Read strings. [n] their widths in bytes."""
        length, width, strange = _lengths(self._buffer, at)
        start = at + width
        strange |= (length < 0) | (length > self.ends[rows] - start)
        nothing = strange if null is None else strange | null
        if nothing.any():
            length = np.where(nothing, 0, length)
        values: Any = None
        if step.sink == "same":
            values = self._same(self._memory.same[step.column], start, length)
        elif step.sink != "skip":
            values, bad = self._memory.texts[step.sink, step.column].texts(self._buffer, start, length)
            strange[bad] = True
        self._keep(step, rows, values, strange, null)
        return width + length

    def _same(self, wanted: bytes, start: Ints, length: Ints) -> Mask:
        """[n] whether the texts are the one that is wanted."""
        same: Mask = length == len(wanted)
        if same.all():
            return self._buffer.same(start, wanted)
        same[same] = self._buffer.same(start[same], wanted)
        return same

    def _names(self, step: Step, rows: Rows, at: Ints) -> Ints:
        """Read arrays of names. [n] their widths in bytes."""
        names = self._memory.names[step.column]
        flags = self._enums[step.column : step.column + names.columns]
        flags[:, rows] = 0
        width = np.ones(len(at), np.int64)
        some = self._buffer.octets(at).nonzero()[0]  # a zero byte: there are none
        if len(some):
            these = np.arange(len(self.ends))[rows][some]
            masks, width[some], bad = names.masks(self._buffer, at[some], self.ends[these])
            flags[:, these] = masks.T
            self.odd[these] |= bad
        return width


def _lengths(buffer: Buffer, at: Ints) -> tuple[Ints, Ints, Mask]:
    """As ``varints``, and quicker where one byte is enough, as for most texts."""
    octets = buffer.octets(at)
    length, width = (octets >> 1).astype(np.int64), np.ones(len(at), np.int64)
    strange = np.zeros(len(at), bool)
    more = (octets & 0x81).nonzero()[0]
    if len(more):
        length[more], width[more], strange[more] = varints(buffer, at[more])
    return length, width, strange


def _by_index(step: Step, index: Ints, strange: Mask) -> tuple[Any, Mask]:
    """[n] codes of an enum's indexes; [n] whether there is none."""
    if step.codes_by_index is None:  # skipped: fastavro does not look either
        return None, strange
    known = step.codes_by_index
    outside = strange | (index < 0) | (index >= len(known))
    codes = known[np.where(outside, 0, index)]
    return codes, outside | (codes == UNKNOWN)
