"""How the fields of a writer's schema land in the contract's columns: one step a field, compiled once per schema.

Avro specification 1.12, "Schema Resolution", as far as it is plain: primitives with their promotions, enums by symbol,
nullable ones of these, defaults. For all else there is no plan, and fastavro reads.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Columns, Flag
from schemas.contract import Contract
from schemas.fields import ContractField

Sink = Literal["key", "time", "real", "enum", "label", "flag", "same", "names", "skip"]
Sinks = dict[str, tuple[Sink, int, ContractField | None]]
UNKNOWN = -2  # a code that no contract has; -1 is null
NO_TAG = -1
_ANY = np.where((np.arange(256) % 2 == 0) & (np.arange(256) < 128), 0, UNKNOWN).astype(np.int16)
WIDTHS = {"double": 8, "float": 4, "boolean": 1, "enum": 1}  # of an enum: its first 64 symbols
_FROM = {
    "int": ("int",),
    "long": ("int", "long"),
    "float": ("int", "long", "float"),
    "double": ("int", "long", "float", "double"),
    "string": ("string", "bytes"),
    "boolean": ("boolean",),
    "enum": ("enum",),
    "array": ("array",),
}
_SKIPPABLE = {"null", "boolean", "int", "long", "float", "double", "string", "bytes", "enum", "fixed"}
_MOST_REACH = 1 << 16  # bytes: padding behind the messages is as long


@dataclass(frozen=True, eq=False)
class Step:
    """One field of the writer.

    Attributes:
        kind: the writer's Avro type, nullability aside.
        sink: where it goes; ``column`` is the position there.
        null_tag: the byte that says null before the value; ``NO_TAG`` where the writer's field is not nullable.
        value_tag: the byte that says there is a value.
        nullable: whether the reader takes null.
        codes: [256] int16 by the byte of an enum's index, ``UNKNOWN`` where the row needs a closer look.
        codes_by_index: [symbols] int16, the same by index.
        size: bytes of a fixed.
    """

    kind: str
    sink: Sink
    column: int = 0
    null_tag: int = NO_TAG
    value_tag: int = NO_TAG
    nullable: bool = False
    codes: NDArray[np.int16] = dataclasses.field(default_factory=lambda: _ANY)
    codes_by_index: NDArray[np.int16] | None = None
    size: int = 0

    @property
    def tagged(self) -> bool:
        """Whether a byte before the value says which branch of the union it is."""
        return self.null_tag != NO_TAG

    @property
    def width(self) -> int | None:
        """Bytes of a usual value with its tag; None where that is for the row to say."""
        width = WIDTHS.get(self.kind)
        return None if width is None else width + self.tagged


@dataclass(frozen=True)
class Run:
    """Fields one after the other that have one width as long as nothing is null.

    Attributes:
        steps: with each, the offset of its value in the run (its tag is the byte before).
        width: bytes of all.
    """

    steps: tuple[tuple[Step, int], ...]
    width: int


@dataclass(frozen=True)
class Plan:
    """All of a writer's record.

    Attributes:
        parts: runs, and steps whose width the row says, in the writer's order.
        constants: with the contract's fields that the writer lacks, their value as its column has it.
        reach: bytes that reading may go beyond a message's end, at most, before the row is seen to be odd.
    """

    parts: tuple[Run | Step, ...]
    constants: tuple[tuple[Sink, int, Any], ...]
    reach: int


class _NoPlanError(Exception):
    """The schema has something that only fastavro reads."""


def compile_plan(writer: Any, reader: Any, record: Contract | Columns) -> Plan | None:
    """The plan for records of ``writer``, or None where there is none.

    Args:
        writer: the writer's schema, parsed by fastavro, without logical types.
        reader: the record's, likewise.
        record: whose columns are filled.
    """
    if not isinstance(writer, dict) or writer["type"] != "record" or _short(writer) != _short(reader):
        return None
    sinks = _sinks(Columns.of(record))
    reads = {field["name"]: field for field in reader["fields"]}
    written = [field["name"] for field in writer["fields"]]
    if len(set(written)) < len(written) or any("aliases" in field for field in reader["fields"]):
        return None
    try:
        named = _named(writer), _named(reader)
        steps = [_step(field["type"], reads.get(field["name"]), sinks, named) for field in writer["fields"]]
        constants = tuple(
            (*sinks[name][:2], _default(field, sinks[name][2])) for name, field in reads.items() if name not in written
        )
    except _NoPlanError:
        return None
    reach = sum(9 + step.size for step in steps)
    return Plan(_runs(steps), constants, reach) if reach <= _MOST_REACH else None


def _sinks(columns: Columns) -> Sinks:
    sinks: Sinks = {columns.key.name: ("key", 0, columns.key), columns.time.name: ("time", 0, columns.time)}
    fields: tuple[tuple[Sink, tuple[ContractField, ...]], ...] = (
        ("real", columns.reals),
        ("enum", columns.enums),
        ("label", columns.labels),
    )
    for sink, those in fields:
        sinks |= {field.name: (sink, column, field) for column, field in enumerate(those)}
    sinks |= {flag.name: (_flag_sink(flag), column, None) for flag, column in columns.placed()}
    return sinks | dict.fromkeys(columns.ignored, ("skip", 0, None))


def _flag_sink(flag: Flag) -> Sink:
    return "same" if flag.same is not None else "flag" if flag.names is None else "names"


def _short(schema: Any) -> str:
    """The name without its namespace."""
    return str(schema["name"]).rpartition(".")[2]


def _named(schema: Any) -> dict[str, Any]:
    """Types that fields define, by full name: later fields may refer to them."""
    types = [avro for field in schema["fields"] for avro in _branches(field["type"])]
    return {avro["name"]: avro for avro in types if isinstance(avro, dict) and "name" in avro}


def _branches(avro: Any) -> list[Any]:
    return avro if isinstance(avro, list) else [avro]


def _step(
    written: Any,
    read: dict[str, Any] | None,
    sinks: Sinks,
    named: tuple[dict[str, Any], dict[str, Any]],
) -> Step:
    avro, null_at = _unwrap(written)
    wanted = None if read is None else _unwrap(read["type"])[0]
    if isinstance(avro, str) and avro in named[0] and wanted in (None, avro):  # both, or only fastavro knows
        avro, wanted = named[0][avro], wanted and named[1].get(avro)
    null_tag, value_tag = (NO_TAG, NO_TAG) if null_at is None else (2 * null_at, 2 - 2 * null_at)
    kind = _kind(avro)
    if read is None:
        if kind not in _SKIPPABLE:
            raise _NoPlanError
        size = _fixed_size(avro) if kind == "fixed" else 0
        return Step(kind, "skip", 0, null_tag, value_tag, nullable=True, size=size)
    sink, column, field = sinks[read["name"]]
    if kind not in _FROM[_kind(wanted)] or (kind == "array" and null_at is not None):
        raise _NoPlanError
    codes = _codes_by_index(avro, wanted, field) if kind == "enum" and field is not None else None
    return Step(
        kind,
        sink,
        column,
        null_tag,
        value_tag,
        nullable=field is not None and field.nullable,
        codes=_ANY if codes is None else _codes_by_byte(codes),
        codes_by_index=codes,
    )


def _unwrap(avro: Any) -> tuple[Any, int | None]:
    """The type, null aside, and the position of null where it is a union of the two."""
    if not isinstance(avro, list):
        return avro, None
    if len(avro) != 2 or avro.count("null") != 1:
        raise _NoPlanError
    null_at = avro.index("null")
    return avro[1 - null_at], null_at


def _kind(avro: Any) -> str:
    kind = avro["type"] if isinstance(avro, dict) else avro
    if kind == "array" and isinstance(avro, dict) and avro["items"] == "string":
        return "array"
    if kind not in _SKIPPABLE or (kind in ("enum", "fixed") and not isinstance(avro, dict)):
        raise _NoPlanError  # another array, a map, record or union, or the name of a type that stands elsewhere
    return str(kind)


def _fixed_size(avro: dict[str, Any]) -> int:
    size = avro["size"]
    if not isinstance(size, int) or not 0 <= size <= _MOST_REACH:
        raise _NoPlanError
    return size


def _codes_by_index(written: Any, wanted: Any, field: ContractField) -> NDArray[np.int16]:
    if written["name"].rpartition(".")[2] != wanted["name"].rpartition(".")[2]:
        raise _NoPlanError
    code = {symbol: i for i, symbol in enumerate(field.symbols)}
    other = code.get(wanted.get("default", ""), UNKNOWN)
    return np.array([code.get(symbol, other) for symbol in written["symbols"]], np.int16)


def _codes_by_byte(codes: NDArray[np.int16]) -> NDArray[np.int16]:
    by_byte = np.full(256, UNKNOWN, np.int16)
    short = codes[:64]  # the index times two, in seven bits
    by_byte[0 : 2 * len(short) : 2] = short
    return by_byte


def _default(read: dict[str, Any], field: ContractField | None) -> Any:
    """The default as the field's column has it."""
    value = read.get("default", ...)
    if field is None:
        raise _NoPlanError
    if value is None and field.nullable:
        return np.nan if field.is_real else -1 if field.is_enum else None
    if field.is_enum and isinstance(value, str) and value in field.symbols:
        return field.symbols.index(value)
    if field.is_real and type(value) in (int, float) and abs(value) < 2**53:
        return float(value)
    if field.avro in ("string", "boolean") and type(value) is (str if field.avro == "string" else bool):
        return value
    raise _NoPlanError  # none, or one to be looked at; a default time too: it is the same for all events


def _runs(steps: list[Step]) -> tuple[Run | Step, ...]:
    """Neighbouring steps of one width become runs; those with tags apart, because a null upsets its run."""
    parts: list[Run | Step] = []
    for (tagged, fixed), group in itertools.groupby(steps, lambda step: (step.tagged, step.width is not None)):
        members = list(group)
        if not fixed:
            parts += members
            continue
        ends = list(itertools.accumulate(step.width or 0 for step in members))
        starts = [0, *ends[:-1]]
        parts.append(Run(tuple((step, start + tagged) for step, start in zip(members, starts, strict=True)), ends[-1]))
    return tuple(parts)
