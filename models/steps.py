"""Steps by event time: events fall into steps, a watermark closes them.

The rules, one partition's log at a time (design, "Event time, and exactly once"):

- steps align to the Unix epoch; step ``s`` is [s * step_ms, (s + 1) * step_ms);
- the watermark is the largest min(event time, record timestamp) seen, less the allowed lateness; it closes a step when
  it reaches the step's end;
- an event of a closed step is late; lateness is judged before the event moves the watermark.

Everything is arrays over the fleet: an open step of a server is a cell ``[slot, step % width]``. A cell sums its events
one after another in the log's order, so that no chunking of the log shows in a sum's last bit.
"""

import numpy as np
from numpy.typing import NDArray

from models.cells import NEVER, Cells
from schemas.batch import EventBatch, Floats, Ints
from schemas.contract import Contract

STEP_BITS = 38  # a step of one second in year 9999 needs 38


class OpenSteps:
    """The open steps of one partition, and its watermark.

    How many steps of one server can be open at once is bounded: none starts later than the watermark plus lateness
    plus ``max_ahead_seconds``.
    """

    def __init__(self, contract: Contract) -> None:
        """Nothing seen yet."""
        settings = contract.settings
        self._contract = contract
        self._step_ms = contract.step_ms
        self._lateness_ms = round(settings.allowed_lateness_seconds * 1000)
        span_ms = self._lateness_ms + round(settings.max_ahead_seconds * 1000)
        self._width = span_ms // self._step_ms + 2
        self._window_ms = settings.encoder_steps * self._step_ms
        self.latest_ms = NEVER
        self._swept_before = NEVER  # steps before it were taken out of the ring
        self.jumps = 0  # events that moved the watermark by more than a window: an outage, or a clock that is off
        self._step: Ints = np.full((0, self._width), -1, np.int64)
        self._cells = Cells.blank(contract, 0)

    @property
    def watermark_ms(self) -> int:
        """Steps that end at or before it are closed."""
        return self.latest_ms - self._lateness_ms

    @property
    def closed_before(self) -> int:
        """The first step that is not closed yet."""
        return self.watermark_ms // self._step_ms

    def resume_at(self, watermark_ms: int) -> None:
        """Stand where a log was left: what ends at or before ``watermark_ms`` is closed."""
        self.latest_ms = watermark_ms + self._lateness_ms
        self._swept_before = self.closed_before

    def reopen(self, slot: Ints, batch: EventBatch, offset: Ints) -> None:
        """Put events of open steps back that were read before; nothing closes, and the watermark stays."""
        self._put(self._accumulate(slot, batch, offset))

    def catch_up(self, time: Ints, record_time: Ints) -> None:
        """Move the watermark by events that were read before; the steps that it closes were published then.

        Where the watermark was lost. The event that set it sits in a step that is open still, so it is among those.
        """
        self.latest_ms = int(self._latest(time, record_time)[-1])
        if self.closed_before > self._swept_before:
            self._swept_before = self.closed_before
            self._remove_closed()

    def grow(self, slots: int) -> None:
        """Make room for that many servers."""
        more = slots - len(self._step)
        if more > 0:
            self._step = np.concatenate([self._step, np.full((more, self._width), -1, np.int64)])
            self._cells = Cells.concat([self._cells, Cells.blank(self._contract, more * self._width)])

    def is_late(self, time: Ints, record_time: Ints) -> NDArray[np.bool_]:
        """Mask [n] of the events whose step was closed when they came, by events of the same chunk included."""
        before: Ints = self._latest(time, record_time)[:-1] - self._lateness_ms
        ends = (time // self._step_ms + 1) * self._step_ms
        return np.asarray(ends <= before)

    def advance(self, slot: Ints, batch: EventBatch, record_time: Ints, offset: Ints) -> Cells:
        """Add events that are not late, in the log's order; returns the steps they closed.

        Args:
            slot: [n] the servers' slots; room was made for them.
            batch: the events.
            record_time: [n] timestamps of their records in ms.
            offset: [n] offsets, ascending.

        Returns:
            Closed steps in the order of their closing (then step, then slot); ``closer`` is a row of ``batch``.
        """
        if not len(batch):
            return Cells.blank(self._contract, 0)
        latest = self._latest(batch.time, record_time)
        self.jumps += int(((latest[:-1] != NEVER) & (np.diff(latest) > self._window_ms)).sum())
        latest = latest[1:]
        cells = self._accumulate(slot, batch, offset)
        self.latest_ms = int(latest[-1])
        if self.closed_before > self._swept_before:
            self._swept_before = self.closed_before
            cells = Cells.concat([cells, self._remove_closed()])
        closed = cells.step < self.closed_before
        self._put(cells.take(~closed))
        cells = cells.take(closed)
        cells.closer[:] = np.searchsorted(latest - self._lateness_ms, (cells.step + 1) * self._step_ms)
        return cells.take(np.lexsort((cells.slot, cells.step)))  # steps close in order, so this is by closer too

    def first_open_offset(self) -> int | None:
        """The smallest offset whose event still sits in an open step."""
        held = self._cells.first_offset[self._step.ravel() >= 0]
        return int(held.min()) if len(held) else None

    def is_open(self, slots: Ints) -> NDArray[np.bool_]:
        """Mask of the slots that have an open step."""
        return np.asarray((self._step[slots] >= 0).any(axis=1))

    def _latest(self, time: Ints, record_time: Ints) -> Ints:
        """[n + 1] the running largest min(event time, record time), before each event and after the last."""
        latest: Ints = np.maximum.accumulate(np.concatenate([[self.latest_ms], np.minimum(time, record_time)]))
        return latest

    def _accumulate(self, slot: Ints, batch: EventBatch, offset: Ints) -> Cells:
        """The cells of the chunk's events, taken out of the ring where they were open already."""
        keys = (slot.astype(np.int64) << STEP_BITS) | (batch.time // self._step_ms)
        unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        cells = self._remove(unique >> STEP_BITS, unique & ((1 << STEP_BITS) - 1))
        fresh = cells.count == 0
        cells.first_offset[fresh] = offset[first[fresh]]
        cells.count[:] += np.bincount(inverse, minlength=len(unique))
        self._add(cells, inverse, batch.reals)
        by_time = np.lexsort((batch.time, inverse))  # stable: of equal times the higher offset comes last
        last = by_time[np.searchsorted(inverse[by_time], np.arange(len(unique)), side="right") - 1]
        newer = batch.time[last] >= cells.last_time
        cells.last_time[newer] = batch.time[last[newer]]
        cells.enums[newer] = batch.enums[last[newer]]
        cells.labels[newer] = batch.labels[last[newer]]
        return cells

    @staticmethod
    def _add(cells: Cells, row: Ints, reals: Floats) -> None:
        """Sum values up, one after another; ``row``: [n] the cell of each event."""
        present = ~np.isnan(reals)
        columns = present.shape[1]
        flat = (row[:, None] * columns + np.arange(columns)).ravel()
        sums, counts = np.ascontiguousarray(cells.sums), np.ascontiguousarray(cells.counts)
        np.add.at(sums.reshape(-1), flat, np.where(present, reals, 0.0).ravel())
        np.add.at(counts.reshape(-1), flat, present.ravel().astype(np.int32))
        cells.sums[:], cells.counts[:] = sums, counts

    def _remove(self, slot: Ints, step: Ints) -> Cells:
        """Take the named cells out of the ring; those not there come blank."""
        column = step % self._width
        there = self._step[slot, column] == step
        cells = Cells.blank(self._contract, len(slot))
        cells.slot[:], cells.step[:] = slot, step
        at = (slot * self._width + column)[there]
        cells.put(self._cells.take(at), there.nonzero()[0])
        self._step.reshape(-1)[at] = -1
        return cells

    def _remove_closed(self) -> Cells:
        slot, column = np.nonzero((self._step >= 0) & (self._step < self.closed_before))
        return self._remove(slot, self._step[slot, column])

    def _put(self, cells: Cells) -> None:
        at = cells.slot * self._width + cells.step % self._width
        self._step.reshape(-1)[at] = cells.step
        self._cells.put(cells, at)
