"""Parquet to columns: histories of a fleet from one or several files, merged in time order."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.batch import Codes, EventBatch, Floats, Ints, Objects
from schemas.contract import Contract
from schemas.errors import DataError
from schemas.fields import ContractField
from schemas.mapping import LATEST_MS, Mapping, first_value, shown

METRICS, INCIDENTS = "metrics.parquet", "incidents.parquet"
_ROWS_AT_ONCE = 262_144
_INT_LIMIT = {"int": 2.0**31, "long": 2.0**63}


def read_history(paths: Sequence[Path | str], contract: Contract, mapping: Mapping | None = None) -> EventBatch:
    """Read files or folders and merge them.

    A folder stands for its ``metrics.parquet``, else for all its ``*.parquet`` but ``incidents.parquet``.

    Args:
        paths: files and folders.
        contract: which fields there must be.
        mapping: how the files' columns become the contract's; by default they have its names.

    Returns:
        All rows in time order; rows of one time keep the files' order. NaN in a required real stays NaN: the stream's
        validation judges it.

    Raises:
        DataError: naming file, column, value and row (from 0).
        MappingError: the mapping does not fit the contract or a file.
    """
    mapping = mapping or Mapping.identity()
    mapping.check(contract)
    files = [file for path in paths for file in history_files(Path(path))]
    if not files:
        raise DataError("no file to read")
    # One allocation for all, filled part by part: the rows are not held twice.
    batch, filled = EventBatch.allocate(contract, sum(map(_rows_of, files))), 0
    for file in files:
        for part in _parts(file, contract, mapping):
            rows = slice(filled, filled + len(part))
            for name in ("keys", "time", "reals", "enums", "labels"):
                getattr(batch, name)[rows] = getattr(part, name)
            filled += len(part)
    return _in_time_order(batch)


def history_files(path: Path) -> list[Path]:
    """The parquet files that a path stands for.

    Raises:
        DataError: there is none.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    if (path / METRICS).is_file():
        return [path / METRICS]
    files = sorted(file for file in path.glob("*.parquet") if file.name != INCIDENTS)
    if not files:
        raise DataError(f"{path} holds no parquet file")
    return files


def events_of(frame: pd.DataFrame, contract: Contract, source: str) -> EventBatch:
    """A frame with exactly the contract's columns as events, in the frame's order.

    Args:
        frame: rows, the index naming them; times as timestamps of any unit and zone, or ISO text (naive means UTC).
        contract: names and types.
        source: the file, for messages.

    Raises:
        DataError: naming source, column, value and row.
    """
    batch = EventBatch.allocate(contract, len(frame))
    batch.keys[:] = _texts(frame[contract.key.name], contract.key, source)
    batch.time[:] = _times(frame[contract.time.name], contract.time, source)
    for column, field in enumerate(contract.reals):
        batch.reals[:, column] = _numbers(frame[field.name], field, source)
    for column, field in enumerate(contract.enums):
        batch.enums[:, column] = _codes(frame[field.name], field, source)
    for column, field in enumerate(contract.labels):
        read = _booleans if field.avro == "boolean" else _texts
        batch.labels[:, column] = read(frame[field.name], field, source)
    return batch


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as parquet: {error}") from None


def _rows_of(file: Path) -> int:
    with _opened(file) as parquet:
        return int(parquet.metadata.num_rows)


def _parts(file: Path, contract: Contract, mapping: Mapping) -> Iterator[EventBatch]:
    """The events of a file, some rows at a time."""
    source, row = str(file), 0
    with _opened(file) as parquet:
        names: list[str] = parquet.schema_arrow.names
        if len(set(names)) < len(names):
            raise DataError(f"{source}: has two columns of one name: {', '.join(names)}")
        used = mapping.used(names, contract, source)
        for part in parquet.iter_batches(_ROWS_AT_ONCE, columns=used):
            # The pandas metadata is ignored: an index that was stored is a column like any other.
            frame = _plain(pa.Table.from_batches([part])).to_pandas(
                ignore_metadata=True, strings_to_categorical=True, date_as_object=False
            )
            frame.index = pd.RangeIndex(row, row + len(frame))
            yield events_of(mapping.apply(frame, contract, source), contract, source)
            row += len(frame)


def _plain(table: Any) -> Any:
    """The table with decimals as doubles, which pandas would hold as objects."""
    for position, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            table = table.set_column(position, field.name, table.column(position).cast(pa.float64()))
    return table


def _in_time_order(batch: EventBatch) -> EventBatch:
    if (batch.time[1:] >= batch.time[:-1]).all():
        return batch  # the usual case, and a copy less
    return batch.take(np.argsort(batch.time, kind="stable"))


def _error(source: str, column: "pd.Series[Any]", position: int, problem: str) -> DataError:
    row, value = column.index[position], shown(column.iloc[position])
    return DataError(f"{source}: column {column.name!r}, row {row}: {value} {problem}")


def _times(column: "pd.Series[Any]", field: ContractField, source: str) -> Ints:
    """[n] ms since the epoch."""
    if pd.api.types.is_numeric_dtype(column):
        raise DataError(
            f"{source}: column {field.name!r}, {first_value(column)} is a number: "
            f'name its unit in a mapping, {field.name} = {{ column = "...", unit = "s" }} (or "ms", "us")'
        )
    try:
        times = _datetimes(column)
    except (ValueError, TypeError) as error:  # a type that holds no times
        raise DataError(f"{source}: column {field.name!r}, {first_value(column)} is no time: {error}") from None
    ms = times.as_unit("ms").asi8
    bad = np.asarray(times.isna()) | (np.abs(ms) > LATEST_MS)
    if bad.any():
        row = int(np.argmax(bad))
        raise _error(source, column, row, "is no time")
    return np.asarray(ms, np.int64)


def _datetimes(column: "pd.Series[Any]") -> pd.DatetimeIndex:
    """Times in UTC; what cannot be read is NaT. Each distinct text is parsed once."""
    if pd.api.types.is_datetime64_any_dtype(column):
        index = pd.DatetimeIndex(column)
        return index.tz_localize("UTC") if index.tz is None else index.tz_convert("UTC")
    codes, distinct = pd.factorize(column)
    # pandas would take "2026" and "1700000000" for times too
    texts = [value if isinstance(value, str) and ("-" in value or "T" in value) else "" for value in distinct]
    parsed = pd.to_datetime([*texts, ""], format="ISO8601", utc=True, errors="coerce")
    return parsed[codes]  # a null has code -1: the last entry


def _numbers(column: "pd.Series[Any]", field: ContractField, source: str) -> Floats:
    """[n] float64; null is NaN."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if column.isna().all():
        values = np.full(len(column), np.nan)
    elif not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        raise DataError(f"{source}: column {field.name!r}, {first_value(column)} is not a number")
    else:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    _check_whole(values, column, field, source)
    return values


def _check_whole(values: Floats, column: "pd.Series[Any]", field: ContractField, source: str) -> None:
    """Refuse what Avro's int and long cannot hold: nothing could be published for it.

    Raises:
        DataError: naming the row and its value.
    """
    limit = _INT_LIMIT.get(field.avro)
    if limit is None:
        return
    bad = ~(np.abs(values) < limit)
    if field.nullable:
        bad &= ~np.isnan(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise _error(source, column, row, f"cannot be an Avro {field.avro}")


def _codes(column: "pd.Series[Any]", field: ContractField, source: str) -> Codes:
    """[n] int16, positions among the field's symbols; null is -1."""
    codes, distinct = pd.factorize(column)
    known = {symbol: i for i, symbol in enumerate(field.symbols)}
    for i, value in enumerate(distinct):
        if value not in known:
            row = int(np.argmax(codes == i))
            raise _error(source, column, row, f"is no symbol ({', '.join(field.symbols)})")
    _check_nulls(codes < 0, column, field, source)
    return np.array([*(known[value] for value in distinct), -1], np.int16)[codes]


def _texts(column: "pd.Series[Any]", field: ContractField, source: str) -> Objects:
    """[n] str or None; equal texts are one object. Whole numbers will do as keys."""
    codes, distinct = pd.factorize(column)
    if field.role == "key" and column.dtype.kind in "iu":
        distinct = distinct.astype(str)
    for i, value in enumerate(distinct):
        if not isinstance(value, str):
            raise _error(source, column, int(np.argmax(codes == i)), "is not text")
    _check_nulls(codes < 0, column, field, source)
    return np.array([*distinct, None], dtype=object)[codes]


def _booleans(column: "pd.Series[Any]", field: ContractField, source: str) -> Objects:
    """[n] bool or None."""
    codes, distinct = pd.factorize(column)
    for i, value in enumerate(distinct):
        if not isinstance(value, (bool, np.bool_)):
            raise _error(source, column, int(np.argmax(codes == i)), "is neither true nor false")
    _check_nulls(codes < 0, column, field, source)
    return np.array([*map(bool, distinct), None], dtype=object)[codes]


def _check_nulls(null: Any, column: "pd.Series[Any]", field: ContractField, source: str) -> None:
    if not field.nullable and null.any():
        raise _error(source, column, int(np.argmax(null)), "where null is not allowed")
