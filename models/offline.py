"""A file of forecasts: the windows and the runtime of the service, without Kafka.

The rows in time order are one partition's log; steps that are open at its end stay open, as they would in the stream.
"""

import datetime as dt
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from numpy.typing import NDArray

from models.artifact import Model
from models.block import BLOCK_ROWS
from models.partition import DueWindows, Partition
from models.windows import ClosedSteps, WindowBatch
from schemas.batch import EventBatch, Ints
from schemas.contract import Contract
from schemas.errors import InputError

log = structlog.get_logger(__name__)
_CHUNK_ROWS = 65_536
GROUP_ROWS = 131_072  # of a row group, about: what is in memory at once
_TELL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ForecastFileResult:
    """What was written.

    Attributes:
        rows: of the file. forecasts: one per server and issue time.
        withheld: forecasts that are not in the file, as their output was not finite.
        refused: events that were not valid or late, by stage.
        steps: observed steps that closed. due: windows due for a forecast, selected or not.
    """

    rows: int
    forecasts: int
    withheld: int
    refused: dict[str, int]
    steps: int
    due: int


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which issue times are wanted."""

    step_ms: int
    issued_at: int | None
    since: int | None
    until: int | None
    every: int

    def check(self) -> None:
        if self.every < 1:
            raise InputError(f"every: {self.every} is not a number of steps from 1")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise InputError(f"since {_iso(self.since)} lies after until {_iso(self.until)}")

    def mask(self, step: Ints) -> NDArray[np.bool_]:
        """[n] whether the forecast issued at the end of ``step`` is wanted."""
        issued_at = (step + 1) * self.step_ms
        wanted = (step + 1) % self.every == 0
        if self.issued_at is not None:
            wanted &= issued_at == self.issued_at
        if self.since is not None:
            wanted &= issued_at >= self.since
        if self.until is not None:
            wanted &= issued_at <= self.until
        return np.asarray(wanted, bool)


@dataclass(slots=True)
class _Seen:
    """What came by on the way to the forecasts."""

    events: int = 0
    steps: int = 0
    longest: int = 0
    due: int = 0
    first_due: int | None = None
    last_due: int | None = None
    refused: dict[str, int] = field(default_factory=dict)

    def add(self, closed: ClosedSteps) -> None:
        self.steps += int((~closed.held).sum())
        self.longest = max(self.longest, int(closed.available.max(initial=0)))
        due = closed.step[closed.due]
        if len(due):
            self.due += len(due)
            self.first_due = int(due.min()) if self.first_due is None else min(self.first_due, int(due.min()))
            self.last_due = max(self.last_due or 0, int(due.max()))


def forecast_file(
    model: Model,
    events: EventBatch,
    output: Path,
    *,
    issued_at: int | None = None,
    since: int | None = None,
    until: int | None = None,
    every: int = 1,
    group_rows: int = GROUP_ROWS,
) -> ForecastFileResult:
    """Write the forecasts that the service would publish of these events, one row per server, issue time, target, step.

    Columns: ``server_id``, ``issued_at`` (timestamp[ms, UTC], the end of the last closed step = start of the first
    forecast step), ``target``, ``step`` (int32 from 1), and a float32 column a quantile (``q0.02``, ...). The file is
    written in row groups, under another name in its folder, and appears whole or not at all; one that was there is
    replaced. Where nothing is selected it has no rows, and a warning says why.

    Args:
        model: gives the contract.
        events: in time order.
        output: the parquet file.
        issued_at: only forecasts issued exactly then. This and the next two in ms since the epoch.
        since: only forecasts issued then or later.
        until: only forecasts issued then or earlier.
        every: only issue times that are a multiple of so many steps since the epoch.
        group_rows: rows of a row group, rounded to whole blocks of the runtime.

    Raises:
        InputError: a selection that makes no sense, or ``output`` cannot be written.
    """
    contract = model.contract
    wanted = _Selection(contract.step_ms, issued_at, since, until, every)
    wanted.check()
    seen = _Seen()
    due = _selected(contract, events, wanted, seen)
    with _appearing(output) as file:
        rows, forecasts, withheld = _write(
            model, _grouped(due, _group_windows(contract, group_rows)), file, seen, len(events)
        )
    if not forecasts:
        log.warning(
            "no forecast", output=str(output), steps=seen.steps, reason=_reason(contract, wanted, seen, withheld)
        )
    return ForecastFileResult(rows, forecasts, withheld, seen.refused, seen.steps, seen.due)


def _selected(
    contract: Contract, events: EventBatch, wanted: _Selection, seen: _Seen
) -> Iterator[tuple[list[str], WindowBatch]]:
    """Servers and windows of the forecasts that are due and wanted, in the order of their closing."""
    partition = Partition(contract)
    for start in range(0, len(events), _CHUNK_ROWS):
        chunk = events.take(slice(start, start + _CHUNK_ROWS))
        closing, rejected = partition.advance(chunk, np.arange(start, start + len(chunk)))
        for rejection in rejected:
            seen.refused[rejection.stage] = seen.refused.get(rejection.stage, 0) + 1
        seen.events = start + len(chunk)
        for closed, blocks in closing:
            seen.add(closed)
            if wanted.mask(closed.step[closed.due]).any():  # else its windows need not be copied out
                yield from _only(blocks, wanted)


def _only(blocks: Iterator[DueWindows], wanted: _Selection) -> Iterator[tuple[list[str], WindowBatch]]:
    for due in blocks:
        rows = np.flatnonzero(wanted.mask(due.windows.last_step))
        if len(rows):
            yield [due.keys[row] for row in rows], due.windows.take(rows)


def _group_windows(contract: Contract, group_rows: int) -> int:
    """Windows whose forecasts make a row group: about ``group_rows`` rows, and whole blocks of the runtime."""
    rows = len(contract.targets) * contract.settings.horizon_steps
    return max(group_rows // rows // BLOCK_ROWS, 1) * BLOCK_ROWS


def _grouped(parts: Iterator[tuple[list[str], WindowBatch]], size: int) -> Iterator[tuple[list[str], WindowBatch]]:
    """The same windows in groups of ``size``, the last one smaller."""
    keys: list[str] = []
    pending: list[WindowBatch] = []
    for part_keys, windows in parts:
        keys += part_keys
        pending.append(windows)
        if len(keys) < size:
            continue
        merged = WindowBatch.concat(pending)
        full = len(keys) // size * size
        for start in range(0, full, size):
            yield keys[start : start + size], merged.take(slice(start, start + size))
        keys, pending = keys[full:], [merged.take(slice(full, None))]
    if keys:
        yield keys, WindowBatch.concat(pending)


def _write(
    model: Model, groups: Iterator[tuple[list[str], WindowBatch]], file: BinaryIO, seen: _Seen, n_events: int
) -> tuple[int, int, int]:
    """Forecast group by group, a row group each; returns rows, forecasts and withheld ones."""
    contract, runtime = model.contract, model.runtime()
    rows = forecasts = withheld = 0
    started = told = time.monotonic()
    encoded = ["server_id", "issued_at", "target", "step"]
    with pq.ParquetWriter(file, _schema(contract), compression="zstd", use_dictionary=encoded) as writer:
        for keys, windows in groups:
            quantiles = runtime.forecast(windows)
            good = np.flatnonzero(quantiles.finite)
            withheld += len(keys) - len(good)
            if len(good):
                batch = _record_batch(
                    contract, [keys[row] for row in good], windows.last_step[good], quantiles.values[good]
                )
                writer.write_batch(batch, row_group_size=len(batch))
                rows, forecasts = rows + len(batch), forecasts + len(good)
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                log.info(
                    "forecasting", forecasts=forecasts, rows=rows, rows_per_second=round(rows / (told - started)),
                    events=seen.events, of=n_events,
                    issued_at=_iso((int(windows.last_step[-1]) + 1) * contract.step_ms),
                )  # fmt: skip
    return rows, forecasts, withheld


def _schema(contract: Contract) -> pa.Schema:
    return pa.schema(
        [
            pa.field("server_id", pa.string(), nullable=False),
            pa.field("issued_at", pa.timestamp("ms", tz="UTC"), nullable=False),
            pa.field("target", pa.string(), nullable=False),
            pa.field("step", pa.int32(), nullable=False),
            *(pa.field(f"q{level:g}", pa.float32(), nullable=False) for level in contract.settings.quantiles),
        ]
    )


def _record_batch(contract: Contract, keys: list[str], last_step: Ints, values: NDArray[np.float32]) -> pa.RecordBatch:
    """Rows by forecast, target and step.

    Args:
        contract: names the targets.
        keys: [B] servers.
        last_step: [B] last step of each window.
        values: [B, targets, quantiles, horizon].
    """
    count, n_targets, n_quantiles, horizon = values.shape
    window = np.repeat(np.arange(count, dtype=np.int32), n_targets * horizon)
    target = np.tile(np.repeat(np.arange(n_targets, dtype=np.int32), horizon), count)
    schema = _schema(contract)
    columns = [
        pa.DictionaryArray.from_arrays(window, pa.array(keys, pa.string())).cast(pa.string()),
        pa.array((last_step[window] + 1) * contract.step_ms, schema.field("issued_at").type),
        pa.DictionaryArray.from_arrays(target, pa.array([f.name for f in contract.targets])).cast(pa.string()),
        pa.array(np.tile(np.arange(1, horizon + 1, dtype=np.int32), count * n_targets)),
        *(pa.array(values[:, :, q].reshape(-1)) for q in range(n_quantiles)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@contextmanager
def _appearing(output: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name once it is whole; nothing stays of one that fails.

    Raises:
        InputError: it cannot be written.
    """
    if output.is_dir():
        raise InputError(f"{output} is a folder, not a file to write")
    temporary = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(output)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _reason(contract: Contract, wanted: _Selection, seen: _Seen, withheld: int) -> str:
    settings = contract.settings
    if wanted.issued_at is not None and wanted.issued_at % contract.step_ms:
        return f"{_iso(wanted.issued_at)} is not the end of a step of {settings.step_seconds} s"
    if not seen.steps:
        return f"no step of {settings.step_seconds} s ever closes"
    if seen.first_due is None or seen.last_due is None:
        return (
            f"no window was due: the longest has {seen.longest} steps, a forecast needs {settings.min_encoder_steps} "
            f"without a gap of more than {settings.max_gap_steps}"
        )
    if withheld:
        return f"the model's output was not finite for any of {withheld} windows"
    first, last = ((step + 1) * contract.step_ms for step in (seen.first_due, seen.last_due))
    return f"{seen.due} windows were due, issued {_iso(first)} to {_iso(last)}, and none of them was asked for"


def _iso(time_ms: int) -> str:
    unit = "milliseconds" if time_ms % 1000 else "seconds"
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).isoformat(timespec=unit).replace("+00:00", "Z")
