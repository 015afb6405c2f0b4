"""Framed messages to one batch: columns for the many that are plain, row by row for the few that are not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

import numpy as np

from schemas.batch import EventBatch, Ints, Rejection
from schemas.columnar_reading import Buffer, ColumnarReader, Mask, Rows
from schemas.columns import Columns
from schemas.contract import Contract
from schemas.writer_plan import Plan

Decoded = tuple[EventBatch, list[int], list[Rejection]]
_HEADER_BYTES = 5
_HEADER_MASK = np.uint64((1 << 8 * _HEADER_BYTES) - 1)
# Measured, shipped contract: from about so many rows numpy's calls cost less than fastavro takes.
FEW = 16


class BatchDecoder:
    """Decodes batches; ``each`` has the last word on whatever is unusual."""

    def __init__(
        self,
        record: Contract | Columns,
        plan: Callable[[bytes], Plan | None],
        each: Callable[[Sequence[bytes | None]], Decoded],
    ) -> None:
        """Prepare for one kind of record.

        Args:
            record: the contract of the events, or the columns of another record.
            plan: by a message's first five bytes, how its value is read; None where ``each`` has to.
            each: decodes messages one by one; what is neither kept nor rejected is passed over.
        """
        self._columns, self._plan, self._each = Columns.of(record), plan, each
        self._reader = ColumnarReader(record)
        self._padding = 0

    def decode(self, messages: Sequence[bytes | None]) -> Decoded:
        """As ``EventCodec.decode``, to the same result as ``each``."""
        if len(messages) < max(FEW, 1):
            return self._each(messages)
        batch, odd = self._read(messages)
        rows: Ints = odd.nonzero()[0]
        if not len(rows):
            return batch, list(range(len(messages))), []
        alone, kept, rejected = self._each([messages[row] for row in rows.tolist()])
        _put(batch, rows[kept], alone)
        odd[rows[kept]] = False
        good = np.flatnonzero(~odd)
        refused = [Rejection(int(rows[r.row]), r.stage, r.reason) for r in rejected]
        return (batch.take(good) if len(good) < len(messages) else batch), good.tolist(), refused

    def _read(self, messages: Sequence[bytes | None]) -> tuple[EventBatch, Mask]:
        """[n] events; [n] whether a row has to be read by itself, because its event means nothing."""
        buffer = self._buffer(messages)
        batch, odd = self._columns.allocate(0), np.ones(len(messages), bool)
        for head, rows in _by_header(buffer):
            plan = self._plan(head)
            if plan is None:
                continue
            if plan.reach > self._padding:
                self._padding = plan.reach
                buffer = self._buffer(messages)
            events, odd[rows] = self._reader.read(buffer, rows, _HEADER_BYTES, plan)
            if isinstance(rows, slice):
                return events, odd
            if not len(batch):
                batch = self._columns.allocate(len(messages))
            _put(batch, rows, events)
        return batch if len(batch) else self._columns.allocate(len(messages)), odd

    def _buffer(self, messages: Sequence[bytes | None]) -> Buffer:
        try:
            return Buffer(messages, self._padding)  # type: ignore[arg-type]  # None is rare, and raises
        except TypeError:
            return Buffer([b"" if message is None else message for message in messages], self._padding)


def _by_header(buffer: Buffer) -> Iterator[tuple[bytes, Rows]]:
    """Five bytes, and the rows that begin with them: all of them as a slice; fewer than ``FEW`` are left out."""
    heads = buffer.load(buffer.starts, "<u8") & _HEADER_MASK
    whole = buffer.ends - buffer.starts >= _HEADER_BYTES
    if whole.all() and (heads == heads[0]).all():
        yield _first_bytes(heads[0]), slice(None)
        return
    rows: Ints = np.flatnonzero(whole)
    order = rows[np.argsort(heads[rows], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(heads[order])) + 1):
        if len(group) >= FEW:
            yield _first_bytes(heads[group[0]]), group


def _first_bytes(head: np.uint64) -> bytes:
    return int(head).to_bytes(_HEADER_BYTES, "little")


def _put(batch: EventBatch, rows: Ints, events: EventBatch) -> None:
    """Set ``rows`` of ``batch``, in place."""
    for field in fields(EventBatch):
        getattr(batch, field.name)[rows] = getattr(events, field.name)
