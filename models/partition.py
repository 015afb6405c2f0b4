"""One partition's log in, closed steps and windows out: a deterministic function of the log, however it is chunked."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from models.cells import NEVER
from models.steps import OpenSteps
from models.windows import ClosedSteps, PublishedSteps, WindowBatch, Windows
from schemas.batch import EventBatch, Ints, Rejection
from schemas.contract import Contract
from schemas.validation import ahead, iso, rows_without, validate

_GATHER_ROWS = 128  # windows copied out at once; bounds memory where one event closes a step of the whole fleet


@dataclass(frozen=True, slots=True)
class DueWindows:
    """Windows due for a forecast, beside the steps they end with (rows of one ``ClosedSteps``)."""

    steps: ClosedSteps
    keys: list[str]
    windows: WindowBatch


class Closing:
    """Closed steps in parts, each with its due windows in blocks; ``len``: observed ones, so at most as many forecasts.

    Exhaust the parts, and each part's windows before the next part, before feeding more: they read the live rings.
    """

    def __init__(self, steps: int, parts: Iterator[tuple[ClosedSteps, Iterator[DueWindows]]]) -> None:
        """The parts can be had once."""
        self._steps, self._parts = steps, parts

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[ClosedSteps, Iterator[DueWindows]]]:
        return self._parts


class Partition:
    """State of one input partition: its servers' open steps and windows."""

    def __init__(self, contract: Contract, history_steps: int | None = None, *, evict: bool = True) -> None:
        """Nothing seen yet.

        Args:
            contract: the rules.
            history_steps: keep so many steps of each server instead of what serving needs.
            evict: forget servers that fell silent for longer than a window survives.
        """
        self.contract = contract
        self._open = OpenSteps(contract)
        self._windows = Windows(contract, history_steps)
        self._slots: dict[str, int] = {}
        self._keys: list[str] = []
        self._free: list[int] = []
        self._evict = evict
        self._evicted_before = NEVER

    @property
    def servers(self) -> int:
        """Servers with a window or an open step."""
        return len(self._slots)

    @property
    def servers_with_window(self) -> int:
        """Servers whose window is long enough for a forecast."""
        return self._windows.long_enough()

    @property
    def keys(self) -> list[str]:
        """Server of each slot."""
        return self._keys

    @property
    def watermark_ms(self) -> int | None:
        """Steps that end at or before it are closed; None before the first event."""
        return None if self._open.latest_ms == NEVER else self._open.watermark_ms

    @property
    def closed_before(self) -> int:
        """The first step (since the epoch) that is not closed yet."""
        return self._open.closed_before

    @property
    def jumps(self) -> int:
        """Events that moved the watermark by more than a window."""
        return self._open.jumps

    @property
    def windows(self) -> Windows:
        """The windows themselves, for those who gather by their own choice (training)."""
        return self._windows

    def first_open_offset(self) -> int | None:
        """The smallest offset whose event still sits in an open step; None where none does."""
        return self._open.first_open_offset()

    def advance(
        self, batch: EventBatch, offset: Ints, record_time: Ints | None = None
    ) -> tuple[Closing, list[Rejection]]:
        """Feed events in the log's order.

        Args:
            batch: decoded events.
            offset: [n] their offsets.
            record_time: [n] their records' timestamps in ms; None where the log has none (a file).

        Returns:
            What closes, which must be exhausted, and the events that were refused.
        """
        rejected = validate(batch, self.contract)
        if record_time is None:
            record_time = batch.time
        else:
            known = {r.row for r in rejected}
            rejected += [r for r in ahead(batch, record_time, self.contract) if r.row not in known]
        rows = np.flatnonzero(rows_without(rejected, len(batch)))
        late = self._open.is_late(batch.time[rows], record_time[rows])
        rejected += [self._late(int(row), batch) for row in rows[late]]
        rows = rows[~late]
        events = batch if len(rows) == len(batch) else batch.take(rows)  # not to touch each id once more
        cells = self._open.advance(self._slots_of(events), events, record_time[rows], offset[rows])
        cells.closer[:] = rows[cells.closer]
        return Closing(len(cells), self._parts(Windows.parts(cells))), sorted(rejected, key=lambda r: r.row)

    def restore(self, steps: PublishedSteps) -> None:
        """Rebuild windows from steps that were published, in the order of the log; before any event is fed.

        What a window holds already, or is older than that, is passed over: at least once publishes steps twice.
        """
        self._windows.restore(self._slots_of(steps), steps)

    def resume_at(self, watermark_ms: int) -> None:
        """Stand where the log was left, after ``restore``; windows that were given up by then go."""
        self._open.resume_at(watermark_ms)
        self._forget(self._windows.expired(self._open.closed_before))

    def reopen(self, batch: EventBatch, offset: Ints, record_time: Ints, *, exact: bool = True) -> None:
        """Feed events that were read before the log was left: those in steps that are open still count again.

        Everything else that they led to was published then: closed steps, forecasts, and why some were refused.
        ``exact``: the watermark that ``resume_at`` was told is that of the log; else these events may move it.
        """
        rejected = validate(batch, self.contract)
        rejected += ahead(batch, record_time, self.contract)
        rows = np.flatnonzero(rows_without(rejected, len(batch)))
        closed = self._open.closed_before
        rows = rows[batch.time[rows] // self.contract.step_ms >= closed]
        events = batch.take(rows)
        self._open.reopen(self._slots_of(events), events, offset[rows])
        if not exact:
            self._open.catch_up(events.time, record_time[rows])

    def oldest_needed_step(self) -> int:
        """The first step that a window may still need: those before it need not be read to restore this state."""
        return self._open.closed_before - 1 - self.contract.settings.max_gap_steps - self._windows.needed_steps

    def _parts(self, parts: list) -> Iterator[tuple[ClosedSteps, Iterator[DueWindows]]]:  # type: ignore[type-arg]
        for cells in parts:
            closed = self._windows.append(cells)
            yield closed, self._due(closed)
        if self._evict and self._open.closed_before > self._evicted_before:
            self._evicted_before = self._open.closed_before
            self._forget(self._windows.expired(self._open.closed_before))

    def _due(self, closed: ClosedSteps) -> Iterator[DueWindows]:
        due = np.flatnonzero(closed.due)
        for start in range(0, len(due), _GATHER_ROWS):
            steps = closed.take(due[start : start + _GATHER_ROWS])
            lengths = np.minimum(steps.available, self.contract.settings.encoder_steps)
            windows = self._windows.gather(steps.slot, steps.step, lengths, steps.available, steps.enums)
            yield DueWindows(steps, [self._keys[slot] for slot in steps.slot], windows)

    def _late(self, row: int, batch: EventBatch) -> Rejection:
        name, time = self.contract.time.name, int(batch.time[row])
        end = (time // self.contract.step_ms + 1) * self.contract.step_ms
        return Rejection(row, "late", f"{name}: {iso(time)} is late: its step ended at {iso(end)} and is closed")

    def _slots_of(self, rows: EventBatch | PublishedSteps) -> Ints:
        slots = np.fromiter(map(self._slots.get, rows.keys.tolist(), repeat(-1)), np.int64, len(rows))
        for row in np.flatnonzero(slots < 0):
            slots[row] = self._slot(rows.keys[row])
        self._open.grow(self._capacity())
        self._windows.grow(self._capacity())
        return slots

    def _slot(self, key: str) -> int:
        slot = self._slots.get(key)
        if slot is None:
            slot = self._free.pop() if self._free else len(self._keys)
            if slot == len(self._keys):
                self._keys.append(key)
            self._keys[slot] = key
            self._slots[key] = slot
        return slot

    def _capacity(self) -> int:
        """Rooms for the servers: grows by halves, so that a growing fleet is not copied at each newcomer."""
        return 0 if not self._keys else max(8, 1 << (len(self._keys) - 1).bit_length())

    def _forget(self, slots: NDArray[np.int64]) -> None:
        slots = slots[~self._open.is_open(slots)]
        self._windows.clear(slots)
        for slot in slots.tolist():
            del self._slots[self._keys[slot]]
            self._free.append(slot)
