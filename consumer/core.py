"""The pure core: a partition's records in, records to publish out. No client, no clock.

What it publishes is a function of the log alone, so that whoever reads the log again publishes the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog

from consumer.dlq import dead_letter
from consumer.messages import Incoming, Outgoing
from consumer.records import forecast_records, step_records
from models.artifact import Model
from models.partition import DueWindows, Partition
from models.windows import ClosedSteps
from schemas.batch import EventBatch, Ints, Rejection
from schemas.codec import EventCodec, RecordCodec
from schemas.topics import Topics

log = structlog.get_logger(__name__)


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
    steps: RecordCodec
    forecasts: RecordCodec


@dataclass(frozen=True, slots=True)
class Decoded:
    """Events, the position of each among the records, and the records that could not be decoded."""

    events: EventBatch
    kept: list[int]
    refused: list[Rejection]


class Core:
    """State of the assigned partitions, and the one way through: decode, validate, window, infer, publish."""

    def __init__(self, model: Model, codecs: Codecs, topics: Topics) -> None:
        """No partitions yet."""
        self._model, self._codecs, self._topics = model, codecs, topics
        self._contract = model.contract
        self._runtime = model.runtime()
        self._lineage = {"model_version": model.version, "contract_fingerprint": model.fingerprint}
        self._partitions: dict[int, Partition] = {}
        self.counts = Counts()

    @property
    def partitions(self) -> list[int]:
        """The assigned partitions."""
        return sorted(self._partitions)

    @property
    def servers_with_window(self) -> int:
        """Servers whose window is long enough for a forecast."""
        return sum(p.servers_with_window for p in self._partitions.values())

    @property
    def servers(self) -> int:
        """Servers with a window or an open step."""
        return sum(p.servers for p in self._partitions.values())

    def add(self, partition: int) -> None:
        """Take on a partition, with nothing known of it."""
        self._partitions[partition] = Partition(self._contract)

    def remove(self, partition: int) -> None:
        """Forget a partition."""
        self._partitions.pop(partition, None)

    def state(self, partition: int) -> Partition | None:
        """The partition's state; another object each time the partition is taken on."""
        return self._partitions.get(partition)

    def first_open_offset(self, partition: int) -> int | None:
        """The first offset whose event still sits in an open step: what a restart must read again."""
        return self._partitions[partition].first_open_offset()

    def watermark_ms(self, partition: int) -> int | None:
        """Steps that end at or before it are closed."""
        return self._partitions[partition].watermark_ms

    def process(self, partition: int, records: Sequence[Incoming]) -> Iterable[Outgoing]:
        """Feed consecutive records of a partition; yields what to publish, in order. Exhaust it.

        Raises:
            UnreachableError: a schema id is not cached and the registry does not answer; nothing was changed.
        """
        events, kept, undecodable = self._codecs.events.decode([r.value for r in records])
        state = self._partitions[partition]  # held here: it may be given away while its output waits for the broker
        return self._publish(partition, state, records, Decoded(events, kept, undecodable))

    def _publish(
        self, partition: int, state: Partition, records: Sequence[Incoming], decoded: Decoded
    ) -> Iterable[Outgoing]:
        kept = decoded.kept
        offset = np.array([records[i].offset for i in kept], np.int64)
        appended = np.array([records[i].timestamp_ms for i in kept], np.int64)
        jumps = state.jumps
        closing, invalid = state.advance(decoded.events, offset, appended)
        if state.jumps > jumps:
            self.counts.watermark_jumps += state.jumps - jumps
            log.warning("event time jumped by more than a window", partition=partition, watermark_ms=state.watermark_ms)
        self.counts.events += len(decoded.events) - len(invalid)
        refused = decoded.refused + [Rejection(kept[r.row], r.stage, r.reason) for r in invalid]
        yield from self._dead_letters(partition, records, refused)
        for closed, blocks in closing:
            yield from self._steps(partition, closed, state.keys)
            for due in blocks:
                yield from self._forecasts(partition, due, offset[due.steps.closer])

    def _dead_letters(
        self, partition: int, records: Sequence[Incoming], refused: list[Rejection]
    ) -> Iterable[Outgoing]:
        for rejection in sorted(refused, key=lambda r: r.row):
            self.counts.refused[rejection.stage] = self.counts.refused.get(rejection.stage, 0) + 1
            incoming = records[rejection.row]
            yield dead_letter(incoming, rejection, self._topics.metrics, partition, self._topics.dlq)

    def _steps(self, partition: int, closed: ClosedSteps, keys: list[str]) -> Iterable[Outgoing]:
        self.counts.steps += len(closed)
        self.counts.held_steps += int(closed.held.sum())
        steps = list(step_records(closed, keys, self._contract, self._model.fingerprint))
        for step, value in zip(steps, self._codecs.steps.encode(steps), strict=True):
            yield Outgoing(self._topics.steps, step["server_id"].encode(), value, partition=partition)

    def _forecasts(self, partition: int, due: DueWindows, offsets: Ints) -> Iterable[Outgoing]:
        quantiles = self._runtime.forecast(due.windows)
        source = (self._topics.metrics, partition, offsets)
        forecasts = list(forecast_records(due, quantiles, self._contract, self._lineage, source))
        self.counts.forecasts += len(forecasts)
        self.counts.withheld += len(due.keys) - len(forecasts)
        for forecast, value in zip(forecasts, self._codecs.forecasts.encode(forecasts), strict=True):
            yield Outgoing(self._topics.forecasts, forecast["server_id"].encode(), value)
