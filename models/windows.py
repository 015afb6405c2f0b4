"""One bounded window per server, as rings over the fleet: gaps, held values, restarts, and tensors straight out of it.

Gaps are filled before steps are appended (``models.gaps``); held steps count towards the window and are never due. The
same code makes the windows of training and of serving.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.cells import Cells
from models.gaps import NONE, Rows, fill
from schemas.batch import Codes, Floats, Ints, Objects
from schemas.column_batch import ColumnBatch
from schemas.contract import Contract

_SLACK_STEPS = 32  # steps that one chunk may append before its oldest due window must have been gathered
_UNSET = np.iinfo(np.int64).max // 2


@dataclass(frozen=True, slots=True)
class ClosedSteps(ColumnBatch):
    """``n`` closed steps as they are published, in the order of their closing.

    Attributes:
        slot, step, count: [n] server, step index since the epoch, events in it.
        held: [n] no event; the values are those of the step before.
        held_inputs: [n, inputs] the value is carried over from the step before.
        reals: [n, reals] means; NaN is null. enums, labels: [n, ...] the last ones.
        closer: [n] row of the event that closed the step.
        available: [n] steps of the window up to and with this one.
        due: [n] a forecast is due.
    """

    slot: Ints
    step: Ints
    count: Ints
    held: NDArray[np.bool_]
    held_inputs: NDArray[np.bool_]
    reals: Floats
    enums: Codes
    labels: Objects
    closer: Ints
    available: Ints
    due: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, slots=True)
class PublishedSteps(ColumnBatch):
    """``n`` steps as they were published once, in the order of the log; columns as in ``ClosedSteps``.

    Attributes:
        keys: [n] str, the server's id.
    """

    keys: Objects
    step: Ints
    held: NDArray[np.bool_]
    held_inputs: NDArray[np.bool_]
    reals: Floats
    enums: Codes
    labels: Objects

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, slots=True)
class WindowBatch(ColumnBatch):
    """Encoder windows of ``B`` servers, right-padded with zeros to the contract's ``encoder_steps`` (E).

    Attributes:
        reals: [B, E, inputs] float32, targets then covariates.
        categories: [B, E, categories] int64, the symbol's position in the schema.
        statics: [B, statics] int64.
        lengths: [B] steps in the window. held: [B] how many of them were held.
        last_step: [B] index of the last step since the epoch.
        lag: [B, E + horizon, targets] float32, each target one season earlier, aligned like ``reals`` followed by the
            horizon; without columns where the contract does not name ``season_lag``.
    """

    reals: NDArray[np.float32]
    categories: Ints
    statics: Ints
    lengths: Ints
    held: Ints
    last_step: Ints
    lag: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, rows: int) -> "WindowBatch":
        """These windows, then full windows of zeros, ``rows`` in all."""
        missing = rows - len(self)
        if missing <= 0:
            return self
        columns = {}
        for name in WindowBatch.__slots__:
            array = getattr(self, name)
            columns[name] = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        columns["lengths"][len(self) :] = self.reals.shape[1]
        return WindowBatch(**columns)


class Windows:
    """The windows of one partition's servers."""

    def __init__(self, contract: Contract, history_steps: int | None = None) -> None:
        """Empty windows; ``history_steps`` keeps more than serving needs (all of a training history)."""
        settings = contract.settings
        self._contract = contract
        self._lagged = "season_lag" in settings.known
        self.needed_steps = settings.encoder_steps + (settings.season_steps if self._lagged else 0)
        self._ring = max(self.needed_steps, history_steps or 0) + _SLACK_STEPS + settings.max_gap_steps
        self._inputs = len(contract.inputs)
        self._last_step: Ints = np.empty(0, np.int64)
        self._first_step: Ints = np.empty(0, np.int64)
        self._last_reals: Floats = np.empty((0, len(contract.reals)))
        self._last_enums: Codes = np.empty((0, len(contract.enums)), np.int16)
        self._last_labels: Objects = np.empty((0, len(contract.labels)), object)
        self._values: NDArray[np.float32] = np.empty((0, self._ring, self._inputs), np.float32)
        self._codes: Codes = np.empty((0, self._ring, len(contract.categories)), np.int16)
        self._held: NDArray[np.bool_] = np.empty((0, self._ring), bool)
        # What was carried over is no truth to train on or to judge by; serving needs no truth.
        truths = len(contract.targets) if history_steps is not None else 0
        self._carried: NDArray[np.bool_] = np.empty((0, self._ring, truths), bool)

    def grow(self, slots: int) -> None:
        """Make room for that many servers."""
        more = slots - len(self._last_step)
        if more <= 0:
            return

        def longer(array: NDArray[Any], value: object) -> NDArray[Any]:
            return np.concatenate([array, np.full((more, *array.shape[1:]), value, array.dtype)])

        self._last_step = longer(self._last_step, NONE)
        self._first_step = longer(self._first_step, _UNSET)
        self._last_reals = longer(self._last_reals, np.nan)
        self._last_enums = longer(self._last_enums, -1)
        self._last_labels = longer(self._last_labels, None)
        self._values = longer(self._values, np.nan)
        self._codes = longer(self._codes, -1)
        self._held = longer(self._held, value=False)
        self._carried = longer(self._carried, value=False)

    def clear(self, slots: Ints) -> None:
        """Forget those servers."""
        self._last_step[slots] = NONE
        self._first_step[slots] = _UNSET
        self._last_reals[slots] = np.nan
        self._values[slots] = np.nan

    def expired(self, closed_before: int) -> Ints:
        """Slots whose window no further event can continue: passed by more than ``max_gap_steps``."""
        limit = closed_before - 1 - self._contract.settings.max_gap_steps
        return np.flatnonzero((self._last_step != NONE) & (self._last_step < limit))

    def long_enough(self) -> int:
        """How many windows a forecast can be made from."""
        least = self._contract.settings.min_encoder_steps
        return int(((self._last_step != NONE) & (self._last_step - self._first_step + 1 >= least)).sum())

    @staticmethod
    def parts(cells: Cells) -> list[Cells]:
        """Cut closed cells so that each part may be appended before any of its windows is gathered."""
        if not len(cells):
            return []
        cuts, start = [], int(cells.step[0])
        for boundary in np.flatnonzero(np.diff(cells.step)) + 1:
            if cells.step[boundary] - start >= _SLACK_STEPS:
                cuts.append(int(boundary))
                start = int(cells.step[boundary])
        edges = [0, *cuts, len(cells)]
        return [cells.take(slice(a, b)) for a, b in pairwise(edges)]

    def append(self, cells: Cells) -> ClosedSteps:
        """Append closed steps (one of ``parts``) to the windows; returns them with the held ones between."""
        rows = self._with_priors(cells)
        rows = fill(rows, self._inputs, self._contract.settings.max_gap_steps)
        self._write(rows)
        return self._closed(rows)

    def restore(self, slots: Ints, steps: PublishedSteps) -> None:
        """Append steps as they were published: gaps were filled then. Repeated ones are passed over.

        Args:
            slots: [n] the servers' slots; room was made for them.
            steps: [n] in the order of the log.
        """
        if not len(steps):
            return
        rows, leads = self._unseen(slots, steps)
        if not len(rows.step):
            return
        before = np.where(leads, self._last_step[rows.slot], np.roll(rows.step, 1))
        rows.fresh = rows.step - before != 1
        self._write(rows)
        self._first_steps(rows, leads & ~rows.fresh)

    def _unseen(self, slots: Ints, steps: PublishedSteps) -> tuple[Rows, NDArray[np.bool_]]:
        """The steps behind what the windows hold, by server and step, each once; and which are their server's first."""
        order = np.lexsort((steps.step, slots))
        slot, step = slots[order], steps.step[order]
        unseen = step > self._last_step[slot]
        unseen[1:] &= (slot[1:] != slot[:-1]) | (step[1:] != step[:-1])
        if not unseen.all():
            order, slot, step = order[unseen], slot[unseen], step[unseen]
        none, no_count = np.zeros(len(order), bool), np.zeros(len(order), np.int64)
        rows = Rows(
            slot=slot,
            step=step,
            prior=none,
            count=no_count,
            closer=no_count,
            reals=steps.reals[order],
            enums=steps.enums[order],
            labels=steps.labels[order],
            held=steps.held[order],
            held_inputs=steps.held_inputs[order],
            fresh=none,
        )
        return rows, np.append(True, slot[1:] != slot[:-1])[: len(order)]

    def gather(self, slots: Ints, steps: Ints, lengths: Ints, available: Ints, enums: Codes) -> WindowBatch:
        """The windows that end with ``steps`` (inclusive), of ``lengths`` steps each.

        Args:
            slots: [B] the servers.
            steps: [B] last step of each window.
            lengths: [B] steps of each window, at most the contract's ``encoder_steps``.
            available: [B] contiguous steps up to and with ``steps``, at least ``lengths``; older ones serve the lag.
            enums: [B, enums] those of the last step, which give the statics.
        """
        settings, contract = self._contract.settings, self._contract
        position = np.arange(settings.encoder_steps)
        inside = position < lengths[:, None]
        at = np.where(inside, steps[:, None] - lengths[:, None] + 1 + position, steps[:, None]) % self._ring
        flat = slots[:, None] * self._ring + at
        reals, codes, held = (_by_step(x).take(flat, axis=0) for x in (self._values, self._codes, self._held))
        if not inside.all():
            reals[~inside], codes[~inside], held[~inside] = 0, 0, False
        n_categories = len(contract.categories)
        statics = enums[:, n_categories : n_categories + len(contract.statics)]
        return WindowBatch(
            reals=reals,
            categories=codes.astype(np.int64),
            statics=statics.astype(np.int64),
            lengths=lengths.astype(np.int64),
            held=held.sum(axis=1),
            last_step=steps.astype(np.int64),
            lag=self._season_lag(slots, steps, lengths, available),
        )

    def future(self, slots: Ints, steps: Ints) -> NDArray[np.float32]:
        """[B, horizon, targets] what was observed after ``steps``; NaN where nothing was, or it was carried over.

        Only of windows that keep a history.
        """
        settings = self._contract.settings
        at = (steps[:, None] + 1 + np.arange(settings.horizon_steps)) % self._ring
        values = self._values[slots[:, None], at][..., : len(self._contract.targets)]
        return np.where(self._carried[slots[:, None], at], np.float32(np.nan), values)

    def past(self, slots: Ints, steps: Ints, available: Ints, back: Ints) -> NDArray[np.float32]:
        """[B, k, targets] values ``back`` [k] steps before ``steps``; NaN before the window began."""
        at = (steps[:, None] - back) % self._ring
        values = self._values[slots[:, None], at][..., : len(self._contract.targets)]
        return np.where((back < available[:, None])[..., None], values, np.float32(np.nan))

    def _season_lag(self, slots: Ints, steps: Ints, lengths: Ints, available: Ints) -> NDArray[np.float32]:
        settings, targets = self._contract.settings, len(self._contract.targets)
        width = settings.encoder_steps + settings.horizon_steps
        if not self._lagged:
            return np.zeros((len(slots), width, 0), np.float32)
        # Behind the (right-padded) encoder the horizon follows at once: relative position 0 is the first forecast step.
        position = np.arange(width)
        relative = np.where(
            position < settings.encoder_steps, position - lengths[:, None], position - settings.encoder_steps
        )
        wanted = steps[:, None] + 1 + relative - settings.season_steps
        there = (wanted > steps[:, None] - available[:, None]) & (wanted <= steps[:, None])
        at = np.where(there, wanted, steps[:, None]) % self._ring
        lag = self._values[slots[:, None], at][..., :targets]
        padded = (position < settings.encoder_steps) & (position >= lengths[:, None])
        return np.where(padded[..., None], np.float32(0), lag)

    def _with_priors(self, cells: Cells) -> Rows:
        """The cells by server and step, each server led by the last step of its window."""
        slots = _distinct(cells.slot)
        n = len(slots)
        blank = np.zeros(n, np.int64)
        order = np.lexsort(
            (
                np.concatenate([np.full(n, -1), cells.step]),
                np.concatenate([slots, cells.slot]),
            )
        )
        return Rows(
            slot=np.concatenate([slots, cells.slot])[order],
            step=np.concatenate([self._last_step[slots], cells.step])[order],
            prior=(np.arange(n + len(cells)) < n)[order],
            count=np.concatenate([blank, cells.count])[order],
            closer=np.concatenate([blank, cells.closer])[order],
            reals=np.concatenate([self._last_reals[slots], cells.means()])[order],
            enums=np.concatenate([self._last_enums[slots], cells.enums])[order],
            labels=np.concatenate([self._last_labels[slots], cells.labels])[order],
            held=np.zeros(n + len(cells), bool),
            held_inputs=np.zeros((n + len(cells), self._inputs), bool),
            fresh=np.zeros(n + len(cells), bool),
        )

    def _write(self, rows: Rows) -> None:
        if rows.prior.any():
            rows = rows.take(~rows.prior)
        slot, step = rows.slot, rows.step
        at = slot * self._ring + step % self._ring
        truths = self._carried.shape[2]
        carried = rows.held_inputs[:, :truths] | rows.held[:, None]
        _by_step(self._values)[at] = rows.reals[:, : self._inputs]
        _by_step(self._codes)[at] = rows.enums[:, : self._codes.shape[2]]
        _by_step(self._held)[at] = rows.held
        _by_step(self._carried)[at] = carried
        last = np.append(slot[1:] != slot[:-1], True)
        self._last_step[slot[last]] = step[last]
        self._last_reals[slot[last]] = rows.reals[last]
        self._last_enums[slot[last]] = rows.enums[last]
        self._last_labels[slot[last]] = rows.labels[last]

    def _closed(self, rows: Rows) -> ClosedSteps:
        first = self._first_steps(rows, rows.prior)
        available = np.maximum(rows.step - first + 1, 0)
        settings = self._contract.settings
        due = ~rows.held & (available >= settings.min_encoder_steps)
        due &= (rows.step + 1) % settings.forecast_every_steps == 0
        closed = ClosedSteps(
            slot=rows.slot,
            step=rows.step,
            count=rows.count,
            held=rows.held,
            held_inputs=rows.held_inputs,
            reals=rows.reals,
            enums=rows.enums,
            labels=rows.labels,
            closer=rows.closer,
            available=available,
            due=due,
        ).take(~rows.prior)
        return closed.take(np.lexsort((closed.slot, closed.step, closed.closer)))

    def _first_steps(self, rows: Rows, going_on: NDArray[np.bool_]) -> Ints:
        """[n] the first step of each row's window: where its run began and every input was known.

        ``going_on``: [n] where the rows of a server begin that go on with the window as it was.
        """
        complete = ~np.isnan(rows.reals[:, : self._inputs]).any(axis=1)
        index = np.arange(len(rows.step))
        begin = np.maximum.accumulate(np.where(going_on | rows.fresh, index, 0))
        # The first complete row at or after each row, if it lies before the row that asks.
        running = np.maximum.accumulate(np.where(complete & ~rows.prior, 0, index + 1))  # last incomplete row + 1
        start = np.maximum(begin, running)
        inherited = going_on[begin] & (self._first_step[rows.slot] != _UNSET)
        known = np.where(start <= index, rows.step[np.minimum(start, len(index) - 1)], _UNSET)
        first = np.where(inherited, self._first_step[rows.slot], known)
        last = np.append(rows.slot[1:] != rows.slot[:-1], True)
        self._first_step[rows.slot[last]] = first[last]
        return first


def _distinct(values: Ints) -> Ints:
    """Ascending, each once; ``np.unique`` hashes integers, which is slower than to sort them."""
    ordered = np.sort(values)
    first: NDArray[np.bool_] = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    return ordered[first]


def _by_step(ring: NDArray[Any]) -> NDArray[Any]:
    """[slots * ring, ...] the same memory: one index is quicker than two."""
    slots, length, *rest = ring.shape
    return ring.reshape(slots * length, *rest)
