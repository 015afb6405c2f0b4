"""Bytes to columns and back: Confluent's wire format around Avro, whole batches at a time.

Wire format: one zero byte, the schema's id as big-endian uint32, then the Avro binary encoding
(Confluent documentation, "Wire format"). Events are read by columns (``schemas.batch_decoding``), to the same
results as fastavro's, which reads whatever is unusual.
"""

import io
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import fastavro
import numpy as np

from schemas.batch import EventBatch, Rejection
from schemas.batch_decoding import BatchDecoder, Decoded
from schemas.columns import Columns
from schemas.contract import Contract
from schemas.event_writing import EventWriter
from schemas.fields import describe_type
from schemas.writer_plan import Plan, compile_plan

MAGIC = 0
HEADER = struct.Struct(">bI")
_ADDRESS = re.compile(r"(?: from)? ?<[^<>]* at 0x[0-9a-f]+>")
_MAX_ID = 2**31 - 1  # registries count in Java's int: a larger one is noise, and nobody need be asked


class WriterSchemas(Protocol):
    """Where the schema of an id is found (``schemas.registry.Registry``)."""

    def writer_schema(self, schema_id: int) -> dict[str, Any] | None:
        """The schema registered under the id, or None where the registry knows none.

        Raises:
            UnreachableError: when the registry does not answer.
        """


class DecodeError(ValueError):
    """One message that is not what its schema says; the text is the reason."""


def frame(schema_id: int) -> bytes:
    """The five bytes before each value."""
    return HEADER.pack(MAGIC, schema_id)


def split(message: bytes | None) -> tuple[int, memoryview]:
    """Schema id and body of a framed message.

    Raises:
        DecodeError: no value, too short, or another magic byte.
    """
    if message is None:
        raise DecodeError("the record has no value")
    if len(message) < HEADER.size:
        raise DecodeError(f"{len(message)} bytes are too few for a framed Avro value")
    magic, schema_id = HEADER.unpack_from(message)
    if magic != MAGIC:
        raise DecodeError(f"the first byte is {magic}, not {MAGIC}: not Confluent's wire format")
    if schema_id > _MAX_ID:
        raise DecodeError(f"schema id {schema_id} cannot be: ids end at {_MAX_ID}")
    return schema_id, memoryview(message)[HEADER.size :]


def read_value(body: memoryview, writer: Any, reader: Any = None) -> Any:
    """Decode one Avro value; bytes left over after it are an error.

    Raises:
        DecodeError: with the reason.
    """
    source = io.BytesIO(body)
    try:
        value = fastavro.schemaless_reader(source, writer, reader)
    except Exception as error:
        # fastavro names its file object by address: what is published must not depend on where things lie in memory.
        reason = _ADDRESS.sub("", str(error))
        raise DecodeError(f"not a value of its schema: {type(error).__name__}: {reason}") from error
    left = len(body) - source.tell()
    if left:
        raise DecodeError(f"{left} bytes are left over after the value")
    return value


class Plans:
    """How values are read by columns, by the five bytes before them; compiled once a writer's schema."""

    def __init__(self, writer: Callable[[int], Any], reader: Any, record: Contract | Columns) -> None:
        """``writer``: the schema of an id, or a DecodeError. ``reader``: what is read as. ``record``: its columns."""
        self._writer, self._reader, self._record = writer, reader, record
        self._plans: dict[int, Plan | None] = {}

    def __call__(self, header: bytes) -> Plan | None:
        """None where values behind ``header`` have to be read one by one."""
        try:
            schema_id, _ = split(header)
            writer = self._writer(schema_id)
        except DecodeError:
            return None
        if schema_id not in self._plans:
            self._plans[schema_id] = compile_plan(writer, self._reader, self._record)
        return self._plans[schema_id]


class EventCodec:
    """Metric events of one contract: framed Avro messages to an ``EventBatch`` and back."""

    def __init__(self, contract: Contract, writers: WriterSchemas) -> None:
        """``writers`` resolves the schema ids that messages carry."""
        self._contract = contract
        self._writers = writers
        self._reader = fastavro.parse_schema(plain_schema(contract.schema))
        self._resolved: dict[int, Any] = {}
        self._written = EventWriter(contract)
        self._columnar = BatchDecoder(contract, Plans(self._writer, self._reader, contract), self._decode_each)

    def decode(self, messages: Sequence[bytes | None]) -> Decoded:
        """Decode a batch; a bad message never costs its neighbours.

        Returns:
            The events; the position in ``messages`` of each; and the messages that could not be decoded.

        Raises:
            UnreachableError: an id is not cached and the registry does not answer; nothing was consumed.
        """
        return self._columnar.decode(messages)

    def _decode_each(self, messages: Sequence[bytes | None]) -> Decoded:
        """As ``decode``, with fastavro alone: it decides what a message is worth, and why not."""
        rows: list[dict[str, Any]] = []
        kept: list[int] = []
        rejected: list[Rejection] = []
        for position, message in enumerate(messages):
            try:
                schema_id, body = split(message)
                rows.append(read_value(body, self._writer(schema_id), self._reader))
                kept.append(position)
            except DecodeError as error:
                rejected.append(Rejection(position, "decode", str(error)))
        batch = self._columns(rows)
        nan = _nan_for_null(rows, batch, self._contract)
        if nan:  # rare, and seen only here: in the columns NaN means null
            rejected += [Rejection(kept[row], "validate", reason) for row, reason in nan.items()]
            good = [row for row in range(len(rows)) if row not in nan]
            batch, kept = batch.take(good), [kept[row] for row in good]
        return batch, kept, sorted(rejected, key=lambda r: r.row)

    def encode(self, batch: EventBatch, schema_id: int) -> list[bytes]:
        """One framed message an event.

        Raises:
            ValueError: a value is not one of its field's type; with the field's name and the value.
            TypeError: likewise.
        """
        return self._written.write(batch, frame(schema_id))

    def _writer(self, schema_id: int) -> Any:
        if schema_id not in self._resolved:
            schema = self._writers.writer_schema(schema_id)
            if schema is None:  # not cached: the schema may be registered later
                raise DecodeError(f"schema id {schema_id} is not registered")
            try:
                self._resolved[schema_id] = _check_writer(schema, self._contract)
            except DecodeError as error:
                self._resolved[schema_id] = error
        found = self._resolved[schema_id]
        if isinstance(found, DecodeError):
            raise DecodeError(f"schema id {schema_id}: {found}")
        return found

    def _columns(self, rows: list[dict[str, Any]]) -> EventBatch:
        contract, batch = self._contract, EventBatch.allocate(self._contract, len(rows))
        if not rows:
            return batch
        batch.keys[:] = [row[contract.key.name] for row in rows]
        batch.time[:] = [row[contract.time.name] for row in rows]
        if contract.time_units_per_ms != 1:
            batch.time[:] //= contract.time_units_per_ms
        for column, field in enumerate(contract.reals):
            batch.reals[:, column] = [row[field.name] for row in rows]  # None becomes NaN
        for column, field in enumerate(contract.enums):
            code: dict[str | None, int] = {symbol: i for i, symbol in enumerate(field.symbols)}
            code[None] = -1
            batch.enums[:, column] = [code[row[field.name]] for row in rows]
        for column, field in enumerate(contract.labels):
            batch.labels[:, column] = [row[field.name] for row in rows]
        return batch


def _nan_for_null(rows: list[dict[str, Any]], batch: EventBatch, contract: Contract) -> dict[int, str]:
    """By row the reason, where a nullable field holds NaN itself rather than null."""
    found: dict[int, str] = {}
    for column, field in enumerate(contract.reals):
        if field.nullable:
            for row in np.flatnonzero(np.isnan(batch.reals[:, column])).tolist():
                if rows[row][field.name] is not None:
                    found.setdefault(row, f"{field.name}: nan is not a finite number")
    return found


def plain_schema(schema: Any) -> Any:
    """The schema without logical types, so that times stay integers: no value overflows a datetime."""
    if isinstance(schema, dict):
        return {key: plain_schema(value) for key, value in schema.items() if key != "logicalType"}
    return [plain_schema(item) for item in schema] if isinstance(schema, list) else schema


def _check_writer(schema: dict[str, Any], contract: Contract) -> Any:
    """The writer's schema ready for reading, if the contract can read it at all.

    Raises:
        DecodeError: another record, or its time has another unit.
    """
    name = str(schema.get("name", schema.get("type"))) if isinstance(schema, dict) else describe_type(schema)
    if not isinstance(schema, dict) or schema.get("type") != "record" or name.rpartition(".")[2] != contract.name:
        raise DecodeError(f"the value is a {name}, not the record {contract.name}")
    try:
        parsed = fastavro.parse_schema(plain_schema(schema))
    except Exception as error:  # fastavro's errors have no common base
        raise DecodeError(f"its schema cannot be read: {error}") from error
    for field in schema["fields"]:
        unit = _logical_type(field["type"])
        if field["name"] == contract.time.name and unit not in ("", contract.time.logical):
            raise DecodeError(f"{contract.time.name} is a {unit}, the contract says {contract.time.logical}")
    return parsed


def _logical_type(avro_type: Any) -> str:
    """The logicalType of a field's type, also within a union; ``""`` where it has none."""
    branches = avro_type if isinstance(avro_type, list) else [avro_type]
    return next((str(b["logicalType"]) for b in branches if isinstance(b, dict) and "logicalType" in b), "")
