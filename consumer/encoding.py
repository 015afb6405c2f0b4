"""Closed steps and quantiles as the framed messages that go out, written as columns: no record exists in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.partition import DueWindows
from models.runtime import Quantiles
from models.windows import ClosedSteps
from schemas.batch import Ints
from schemas.codec import frame
from schemas.columnar_writing import (
    Bytes,
    FieldWriter,
    Part,
    Pieces,
    double,
    fixed,
    integer,
    integers,
    join,
    nullable,
    numbers,
    row_bytes,
    text,
    texts,
)
from schemas.contract import Contract
from schemas.fields import ContractField

NULL_FIRST = (0, 1)  # the branches of every union in what goes out: null stands first
_SERVERS = 1 << 20  # ids remembered: a hundredth of what their windows take
_BLOCK_ROWS = 32  # forecasts put together at once: their numbers are still in the cache when they are copied out


class StepEncoder:
    """MetricStep messages of one contract (``schemas.records.step_schema``)."""

    def __init__(self, contract: Contract, schema_id: int, fingerprint: str) -> None:
        """``schema_id`` is the registry's id of the schema; ``fingerprint`` stands in every step."""
        self._contract = contract
        self._frame = frame(schema_id)
        self._fingerprint = text(fingerprint)
        self._step_seconds = fixed(integer(contract.settings.step_seconds))
        self._server = Pieces(text, _SERVERS)
        self._held_fields = Pieces(self._names)
        self._values = tuple(
            tuple(
                FieldWriter(
                    f.name, "double" if f.is_real else f.avro, NULL_FIRST if f.nullable else None, len(f.symbols)
                )
                for f in fields
            )
            for fields in (contract.reals, contract.enums, contract.labels)
        )

    def encode(self, closed: ClosedSteps, keys: Sequence[str]) -> list[bytes]:
        """One message a step.

        Args:
            closed: [n] steps.
            keys: [n] the server of each.

        Raises:
            ValueError: a value is not one of its field's type; with the field's name and the value.
            TypeError: likewise.
        """
        message: list[Part] = [
            self._frame,
            self._server.of(keys),
            integers(closed.step * self._contract.step_ms),
            self._step_seconds,
            integers(closed.count),
            numbers(closed.held, "u1"),
            self._held(closed.held_inputs),
        ]
        groups: tuple[NDArray[Any], ...] = (closed.reals, closed.enums, closed.labels)
        for writers, values in zip(self._values, groups, strict=True):
            message += [writer.part(values[:, column]) for column, writer in enumerate(writers)]
        return join([*message, self._fingerprint], len(closed))

    def _held(self, held: NDArray[np.bool_]) -> Part:
        """[n, inputs] as names; there are few patterns."""
        if not held.any():
            return fixed(texts([]))
        return self._held_fields.of(row_bytes(np.packbits(held, axis=1)))

    def _names(self, packed: bytes) -> bytes:
        inputs = self._contract.inputs
        held = np.unpackbits(np.frombuffer(packed, np.uint8), count=len(inputs))
        return texts([f.name for f, is_held in zip(inputs, held, strict=True) if is_held])


@dataclass(frozen=True, slots=True)
class Source:
    """The events that closed the steps: ``offsets`` [B], of one partition."""

    topic: str
    partition: int
    offsets: NDArray[np.int64]


class ForecastEncoder:
    """Forecast messages (``schemas/forecast.avsc``) of one contract and model. Not for several threads at once."""

    def __init__(self, contract: Contract, schema_id: int, model_version: str, fingerprint: str) -> None:
        """``schema_id`` is the registry's id of the schema; version and fingerprint stand in every forecast."""
        settings = contract.settings
        self._contract = contract
        self._frame = frame(schema_id)
        self._server = Pieces(text, _SERVERS)
        self._steps = fixed(integer(settings.step_seconds) + integer(settings.horizon_steps))
        self._lineage = text(model_version) + text(fingerprint)
        self._count = fixed(integer(len(contract.targets)))
        self._targets = tuple(_TargetBlock(field, contract) for field in contract.targets)

    def encode(self, due: DueWindows, quantiles: Quantiles, source: Source) -> list[bytes]:
        """One message a window whose output is finite, in their order."""
        rows: NDArray[np.intp] | slice = np.flatnonzero(quantiles.finite)
        if quantiles.finite.all():  # as ever: then nothing is copied
            rows = slice(0, len(quantiles.finite))
        values = quantiles.values[rows]
        issued = (due.steps.step[rows] + 1) * self._contract.step_ms
        heads = self._heads(due, rows, issued)
        breaches = [
            target.breaches(quantiles.breach[rows, column], quantiles.breach_step[rows, column], issued)
            for column, target in enumerate(self._targets)
        ]
        topic = b"\0" + text(source.topic) + integer(source.partition)  # the first byte ends the targets
        tails = join([fixed(topic), integers(source.offsets[rows])], len(values))
        messages: list[bytes] = []
        for start in range(0, len(values), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            message: list[Part] = [heads[block]]
            for column, target in enumerate(self._targets):
                message += [target.fill(values[block, column]), breaches[column][block]]
            messages += join([*message, tails[block]], len(values[block]))
        return messages

    def _heads(self, due: DueWindows, rows: NDArray[np.intp] | slice, issued: NDArray[np.int64]) -> list[bytes]:
        """What comes before the targets."""
        message: list[Part] = [
            self._frame,
            self._server.of(np.array(due.keys, object)[rows]),
            integers(issued),
            self._steps,
            self._lineage,
            integers(due.windows.lengths[rows]),
            integers(due.windows.held[rows]),
            self._count,
        ]
        return join(message, len(issued))


class _TargetBlock:
    """One target's part of a forecast: what the contract says stands in its bytes for good, the numbers change."""

    def __init__(self, field: ContractField, contract: Contract) -> None:
        settings = contract.settings
        self._step_ms = contract.step_ms
        self._levels = np.array(settings.quantiles)
        self._above, self._threshold = field.breaches_above, field.threshold
        horizon = self._horizon = settings.horizon_steps
        head = text(field.name) + text(field.unit) + integer(len(settings.quantiles))
        count, room = integer(horizon), bytes(4 * horizon)
        series = [double(level) + count + room + b"\0" for level in settings.quantiles]
        template = head + b"".join(series) + b"\0" + self._breach_head()
        self._block: Bytes = np.tile(np.frombuffer(template, np.uint8), (_BLOCK_ROWS, 1))
        self._rows = [memoryview(row) for row in self._block]
        first = len(head) + 8 + len(count)
        self._room: Bytes = np.ndarray(  # [rows, quantiles, bytes of the horizon's floats]
            (_BLOCK_ROWS, len(series), len(room)),
            np.uint8,
            self._block,
            first,
            (len(template), len(series[0]), 1),
        )

    def _breach_head(self) -> bytes:
        """What of the breach is the same for all: the union's branch, the threshold, the direction."""
        if self._threshold is None:
            return integer(0)
        return integer(1) + double(self._threshold) + integer(0 if self._above else 1)

    def fill(self, values: NDArray[np.float32]) -> list[memoryview]:
        """The bytes of each row up to what varies of its breach; good until the next call.

        Args:
            values: [B, quantiles, horizon], B at most ``_BLOCK_ROWS``.
        """
        self._room[: len(values)] = values.astype("<f4", copy=False).view(np.uint8)
        return self._rows[: len(values)]

    def breaches(self, chance: NDArray[np.float32], step: Ints, issued: Ints) -> list[bytes]:
        """What varies of each row's breach: its probability and the first step; nothing without a threshold.

        Args:
            chance: [B] the breach's, see `Quantiles`.
            step: [B] likewise.
            issued: [B] start of the first forecast step in ms.
        """
        if self._threshold is None:
            return [b""] * len(issued)
        first = nullable(integers(issued + step * self._step_ms), step >= self._horizon, NULL_FIRST)
        return join([numbers(chance, "<f4"), first], len(issued))
