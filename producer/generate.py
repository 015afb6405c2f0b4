"""A fleet's history as parquet: ``metrics.parquet`` and ``incidents.parquet``."""

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from producer.fleet import Fleet, first_tick_ms
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.errors import InputError
from schemas.fields import ContractField
from schemas.history import INCIDENTS, METRICS

_ROW_GROUP = 131_072  # rows computed, written and held at once
_TIME = pa.timestamp("ms", tz="UTC")
_INCIDENTS = pa.schema(
    [
        ("server_id", pa.string()),
        ("kind", pa.string()),
        ("lead_in_start", _TIME),
        ("breach_start", _TIME),
        ("end", _TIME),
    ]
)


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What was written: files, rows and incidents; the time covered is [start_ms, end_ms)."""

    metrics: Path
    incidents: Path
    rows: int
    incident_count: int
    start_ms: int
    end_ms: int


def generate(
    output: Path,
    contract: Contract,
    *,
    servers: int,
    hours: float,
    start_ms: int,
    seed: int,
    scenario: str = "mixed",
    interval_s: float = 60,
    prefix: str = "",
) -> GenerateResult:
    """Write the history of a simulated fleet.

    Both files are written under another name and renamed when complete, ``metrics.parquet`` last: a run that dies on
    the way leaves no half file under either name.

    Args:
        output: the folder; made if it is not there.
        contract: the columns.
        servers: how many; one that joins or leaves on the way has rows only while it is there (`producer.lives`).
        hours: length of the history; it begins with the first multiple of the interval at or after ``start_ms``.
        start_ms: in ms since the epoch.
        seed: equal seeds give equal histories.
        scenario: ``healthy``, ``mixed``, ``degrading`` or ``critical``.
        interval_s: seconds between the samples of a server.
        prefix: stands before each server's id.

    Raises:
        InputError: naming the argument and its value, or the file that cannot be written.
    """
    if not (math.isfinite(hours) and math.isfinite(interval_s)):
        raise InputError(f"hours: {hours:g} and interval: {interval_s:g} must be finite")
    if not (interval_s >= 0.001 and hours * 3600 >= interval_s):
        raise InputError(f"hours: {hours:g} hold no sample at an interval of {interval_s:g} s")
    fleet = Fleet(contract, servers, seed, scenario, prefix)
    first, interval_ms = first_tick_ms(start_ms, interval_s), round(interval_s * 1000)
    ticks = -(-(start_ms + round(hours * 3_600_000) - first) // interval_ms)
    end = first + ticks * interval_ms
    labels = fleet.incidents(first, end)
    metrics_file, incidents_file = output / METRICS, output / INCIDENTS
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _complete(metrics_file) as partial:
            rows = _write_metrics(partial, fleet, first, interval_s, ticks)
            with _complete(incidents_file) as partial_incidents:
                table = pa.Table.from_pandas(labels, schema=_INCIDENTS, preserve_index=False)
                pq.write_table(table.replace_schema_metadata(None), partial_incidents)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or output}: {error.strerror or error}") from None
    return GenerateResult(metrics_file, incidents_file, rows, len(labels), first, end)


@contextlib.contextmanager
def _complete(file: Path) -> Iterator[Path]:
    """A name beside ``file`` to write to; renamed to it when the block ends well, else removed."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())  # the name must not outlive the bytes
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _write_metrics(file: Path, fleet: Fleet, first_ms: int, interval_s: float, ticks: int) -> int:
    """Write the events of ``ticks`` ticks; how many they are: fewer than ticks x servers where one is away."""
    rows, at_once = 0, max(1, _ROW_GROUP // len(fleet))
    with pq.ParquetWriter(file, arrow_schema(fleet.contract), compression="zstd") as writer:
        for tick in range(0, ticks, at_once):
            start = first_ms + tick * round(interval_s * 1000)
            batch = fleet.metrics(start, interval_s, min(at_once, ticks - tick))
            if len(batch):  # none where all are away
                writer.write_table(to_table(batch, fleet.contract), row_group_size=_ROW_GROUP)
            rows += len(batch)
    return rows


def arrow_schema(contract: Contract) -> Any:
    """The contract's columns in its order, as Arrow types."""
    return pa.schema([pa.field(f.name, _arrow_type(f, contract), nullable=f.nullable) for f in contract.fields])


def _arrow_type(field: ContractField, contract: Contract) -> Any:
    if field.role == "time":
        return pa.timestamp("ms" if contract.time_units_per_ms == 1 else "us", tz="UTC")
    if field.role == "key" or field.is_enum:
        return pa.dictionary(pa.int32(), pa.string())
    if field.is_real:
        return pa.int64() if field.avro in ("int", "long") else pa.float64()
    return pa.bool_() if field.avro == "boolean" else pa.string()


def to_table(batch: EventBatch, contract: Contract) -> Any:
    """Events as an Arrow table with the types of `arrow_schema`; NaN is null where the field is nullable."""
    schema = arrow_schema(contract)
    columns: dict[str, Any] = {
        contract.key.name: pa.array(batch.keys, pa.string()).dictionary_encode(),
        contract.time.name: pa.array(batch.time * contract.time_units_per_ms),
    }
    for column, field in enumerate(contract.reals):
        columns[field.name] = pa.array(batch.reals[:, column], from_pandas=field.nullable)
    for column, field in enumerate(contract.enums):
        codes = batch.enums[:, column].astype(np.int32)
        indices = pa.array(codes, mask=codes < 0)
        columns[field.name] = pa.DictionaryArray.from_arrays(indices, pa.array(field.symbols, pa.string()))
    for column, field in enumerate(contract.labels):
        columns[field.name] = pa.array(batch.labels[:, column])
    arrays = [columns[name].cast(schema.field(name).type) for name in schema.names]
    return pa.Table.from_arrays(arrays, schema=schema)
