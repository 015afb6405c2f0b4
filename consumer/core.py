"""The pure core: a partition's records in, records to publish out. No client, no clock.

What it publishes is a function of the log alone, so that whoever reads the log again publishes the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import structlog

from consumer.dlq import dead_letter
from consumer.encoding import ForecastEncoder, Source, StepEncoder
from consumer.messages import Headers, Outgoing, Records
from consumer.position import Mark
from consumer.published import GROUP, SOURCE_OFFSET
from models.artifact import Model
from models.partition import Closing, DueWindows, Partition
from models.runtime import Quantiles, Started
from models.windows import ClosedSteps, PublishedSteps
from schemas.batch import EventBatch, Ints, Rejection
from schemas.codec import EventCodec
from schemas.topics import Topics

log = structlog.get_logger(__name__)
_RUN_WINDOWS = 128  # at least so many are begun at once, where there are
_RUN_STEPS = 4096  # so many without enough windows are a run too: they are not kept waiting, nor all in memory
Item = ClosedSteps | DueWindows
Begun = tuple[list[Item], Started]  # a run, and its forecasts on their way


@dataclass(slots=True)
class Counts:
    """What became of the records, since the start."""

    events: int = 0
    steps: int = 0
    held_steps: int = 0
    forecasts: int = 0
    withheld: int = 0
    watermark_jumps: int = 0
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Codecs:
    """Events in; steps and forecasts out."""

    events: EventCodec
    steps: StepEncoder
    forecasts: ForecastEncoder


@dataclass(slots=True)
class Assigned:
    """A partition that is ours, the first offset of which nothing was published, and whether its watermark is known."""

    state: Partition
    next_offset: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Decoded:
    """Events, the position of each among the records, and the records that could not be decoded."""

    events: EventBatch
    kept: list[int]
    refused: list[Rejection]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of a partition that were fed, and what they lead to, in order.

    Attributes:
        state: the partition's when they were fed. following: the offset after the last of them.
        forecasts: at most so many of them. records: they are made, with their inference, while they are asked for.
    """

    partition: int
    state: Partition
    following: int
    forecasts: int
    records: Iterator[Outgoing]


class Core:
    """State of the assigned partitions, and the one way through: decode, validate, window, infer, publish."""

    def __init__(self, model: Model, codecs: Codecs, topics: Topics, group_id: str = "fleetcast") -> None:
        """No partitions yet. ``group_id`` stands in the steps' headers: one group owns them."""
        self.model = model
        self._codecs, self._topics, self._group = codecs, topics, group_id.encode()
        self._contract = model.contract
        self._runtime = model.runtime()
        self._assigned: dict[int, Assigned] = {}
        self.counts = Counts()

    @property
    def partitions(self) -> list[int]:
        """The assigned partitions."""
        return sorted(self._assigned)

    @property
    def servers_with_window(self) -> int:
        """Servers whose window is long enough for a forecast."""
        return sum(a.state.servers_with_window for a in self._assigned.values())

    @property
    def servers(self) -> int:
        """Servers with a window or an open step."""
        return sum(a.state.servers for a in self._assigned.values())

    def figures(self) -> dict[str, Any]:
        """What there is and what was done, for people."""
        counts = self.counts
        return {
            "partitions": len(self._assigned), "servers": self.servers,
            "servers_with_window": self.servers_with_window, "events": counts.events, "steps": counts.steps,
            "held": counts.held_steps, "forecasts": counts.forecasts, "withheld": counts.withheld,
            "watermark_jumps": counts.watermark_jumps, "refused": dict(counts.refused),
        }  # fmt: skip

    def add(self, partition: int) -> None:
        """Take on a partition, with nothing known of it."""
        self._assigned[partition] = Assigned(Partition(self._contract))

    def remove(self, partition: int) -> None:
        """Forget a partition."""
        self._assigned.pop(partition, None)

    def state(self, partition: int) -> Partition | None:
        """The partition's state; another object each time the partition is taken on."""
        assigned = self._assigned.get(partition)
        return None if assigned is None else assigned.state

    def restore(self, partition: int, steps: PublishedSteps) -> None:
        """Rebuild windows from published steps, in the log's order; before ``resume``."""
        self._assigned[partition].state.restore(steps)

    def resume(self, partition: int, next_offset: int, watermark_ms: int | None, *, exact: bool = True) -> None:
        """Stand where the log was left; records before ``next_offset`` only fill open steps again.

        ``exact``: the watermark is that of the log, and no lower bound.
        """
        assigned = self._assigned[partition]
        assigned.next_offset, assigned.exact = next_offset, exact
        if watermark_ms is not None:
            assigned.state.resume_at(watermark_ms)

    def mark(self, partition: int, following: int) -> Mark:
        """Where the partition's log stands; ``following``: the offset after the last record that was fed."""
        assigned = self._assigned[partition]
        state = assigned.state
        begun = state.watermark_ms is not None
        first_open = state.first_open_offset()
        return Mark(
            resume_offset=following if first_open is None else min(first_open, following),
            next_offset=max(following, assigned.next_offset),
            watermark_ms=state.watermark_ms,
            closed_before=state.closed_before if begun else None,
            oldest_needed_step=state.oldest_needed_step() if begun else None,
        )

    def process(self, partition: int, records: Records) -> Batch:
        """Feed consecutive records of a partition; what to publish is made while it is asked for.

        Inference of the first windows is on its way when this returns, so batches of other partitions may be begun
        before this one is written. Exhaust a partition's output before its next batch.

        Raises:
            UnreachableError: a schema id is not cached and the registry does not answer; nothing was changed.
        """
        assigned = self._assigned[partition]
        old = int((records.offset < assigned.next_offset).sum())
        before, new = records.cut(0, old), records.cut(old)
        decoded_before = Decoded(*self._codecs.events.decode(before.values))
        decoded = Decoded(*self._codecs.events.decode(new.values))
        if old:
            assigned.state.reopen(
                decoded_before.events, before.offset[decoded_before.kept], before.timestamp_ms[decoded_before.kept],
                exact=assigned.exact,
            )  # fmt: skip
        state = assigned.state
        forecasts, output = self._advance(partition, state, new, decoded)
        return Batch(partition, state, int(records.offset[-1]) + 1, forecasts, output)

    def _advance(
        self, partition: int, state: Partition, records: Records, decoded: Decoded
    ) -> tuple[int, Iterator[Outgoing]]:
        kept = decoded.kept
        offset, appended = records.offset[kept], records.timestamp_ms[kept]
        jumps = state.jumps
        closing, invalid = state.advance(decoded.events, offset, appended)
        if state.jumps > jumps:
            self.counts.watermark_jumps += state.jumps - jumps
            log.warning("event time jumped by more than a window", partition=partition, watermark_ms=state.watermark_ms)
        self.counts.events += len(decoded.events) - len(invalid)
        refused = decoded.refused + [Rejection(kept[r.row], r.stage, r.reason) for r in invalid]
        letters = self._dead_letters(partition, records, refused)
        runs = self._begun(_runs(closing))
        first = next(runs, None)
        # The state is held here: it may be given away while its output waits for the broker.
        return len(closing), chain(letters, self._closed(partition, first, runs, state.keys, offset))

    def _begun(self, runs: Iterable[list[Item]]) -> Iterator[Begun]:
        for run in runs:
            yield run, self._runtime.start([item.windows for item in run if isinstance(item, DueWindows)])

    def _closed(
        self, partition: int, first: Begun | None, others: Iterator[Begun], keys: list[str], offset: Ints
    ) -> Iterator[Outgoing]:
        """Each run's records, with the next run's forecasts on their way; ``offset``: [n] of the events."""
        before = first
        while before is not None:
            following = next(others, None)
            (run, started), done = before, 0
            for item in run:
                if isinstance(item, ClosedSteps):  # they need not wait for inference
                    yield from self._steps(partition, item, keys, offset[item.closer])
                else:
                    quantiles = started.result().take(slice(done, done := done + len(item.keys)))
                    yield from self._forecasts(partition, item, quantiles, offset[item.steps.closer])
            before = following

    def _dead_letters(self, partition: int, records: Records, refused: list[Rejection]) -> Iterable[Outgoing]:
        for rejection in sorted(refused, key=lambda r: r.row):
            self.counts.refused[rejection.stage] = self.counts.refused.get(rejection.stage, 0) + 1
            yield dead_letter(
                records.record(rejection.row), rejection, self._topics.metrics, partition, self._topics.dlq
            )

    def _steps(self, partition: int, closed: ClosedSteps, keys: list[str], offsets: Ints) -> Iterable[Outgoing]:
        self.counts.steps += len(closed)
        self.counts.held_steps += int(closed.held.sum())
        servers = [keys[slot] for slot in closed.slot.tolist()]
        values = self._codecs.steps.encode(closed, servers)
        for server, value, offset in zip(servers, values, offsets.tolist(), strict=True):
            headers: Headers = [(GROUP, self._group), (SOURCE_OFFSET, str(offset).encode())]
            yield Outgoing(self._topics.steps, server.encode(), value, headers, partition=partition)

    def _forecasts(self, partition: int, due: DueWindows, quantiles: Quantiles, offsets: Ints) -> Iterable[Outgoing]:
        values = self._codecs.forecasts.encode(due, quantiles, Source(self._topics.metrics, partition, offsets))
        servers = [due.keys[row] for row in np.flatnonzero(quantiles.finite).tolist()]
        self.counts.forecasts += len(values)
        self.counts.withheld += len(due.keys) - len(values)
        for server, value in zip(servers, values, strict=True):
            yield Outgoing(self._topics.forecasts, server.encode(), value)


def _runs(closing: Closing) -> Iterator[list[Item]]:
    """What closes, in order, cut where enough windows are due to keep all cores busy.

    A part may be few servers' steps: their windows alone would leave cores idle and blocks half empty. A part's steps
    are never cut from its first windows, so that the first run's inference begins at once.
    """
    run: list[Item] = []
    windows = steps = 0
    for closed, blocks in closing:
        if steps >= _RUN_STEPS:
            yield run
            run, windows, steps = [], 0, 0
        run.append(closed)
        steps += len(closed)
        for due in blocks:
            run.append(due)
            windows += len(due.keys)
            if windows >= _RUN_WINDOWS:
                yield run
                run, windows, steps = [], 0, 0
    if run:
        yield run
