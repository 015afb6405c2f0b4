import io
import math
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.batch import EventBatch
from schemas.codec import frame
from schemas.columnar_writing import Pieces, double, fixed, integer, integers, join, nullable, numbers, text, texts
from schemas.contract import Contract
from schemas.event_writing import EventWriter
from tests import contracts
from tests.contracts import enum, field
from tests.records import RecordCodec, event_records
from tests.schemas.test_codec import ROLES

SYMBOLS = tuple(f"s{i}" for i in range(70))  # the later ones take two bytes
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.just("ü" * 300)
# By type, values as they stand in an EventBatch.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(),
    "float": st.floats() | st.floats(width=32),
    "int": st.integers(-(2**31), 2**31 - 1) | st.floats(-(2.0**31), 2.0**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1025) | st.floats(-(2.0**63), 2.0**62),
    "string": TEXT,
    "boolean": st.booleans(),
    "enum": st.integers(0, len(SYMBOLS) - 1),
}
NULL = {"string": None, "boolean": None, "enum": -1}


def written(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


@st.composite
def contract_and_batch(draw: st.DrawFn) -> tuple[Contract, EventBatch]:
    fields: list[dict[str, Any]] = []
    roles = ["target", *draw(st.lists(st.sampled_from(sorted(ROLES)), max_size=9))]
    for i, role in enumerate(roles):
        kind = draw(st.sampled_from(ROLES[role]))
        avro: Any = enum(f"E{i}", *SYMBOLS) if kind == "enum" else kind
        if role not in ("category", "static") and draw(st.booleans()):
            avro = draw(st.permutations(["null", avro]))
        fields.append(field(f"f{i}", avro, role))
    schema = contracts.schema(*draw(st.permutations(fields)))
    schema["fields"] = draw(st.permutations(schema["fields"]))
    if draw(st.booleans()):
        next(f for f in schema["fields"] if f["name"] == "at")["type"]["logicalType"] = "timestamp-micros"
    contract = Contract(schema)
    batch = EventBatch.allocate(contract, draw(st.integers(0, 6)))
    n = len(batch)
    batch.keys[:] = draw(st.lists(TEXT, min_size=n, max_size=n))
    batch.time[:] = draw(st.lists(INT64, min_size=n, max_size=n))
    columns = ((contract.reals, batch.reals), (contract.enums, batch.enums), (contract.labels, batch.labels))
    for found, values in columns:
        for column, f in enumerate(found):
            value = VALUES[f.avro] if not f.nullable else st.just(NULL.get(f.avro, math.nan)) | VALUES[f.avro]
            values[:, column] = draw(st.lists(value, min_size=n, max_size=n))
    return contract, batch


@given(contract_and_batch())
@settings(max_examples=300, deadline=None)
def test_events_are_fastavros(drawn: tuple[Contract, EventBatch]) -> None:
    """Any columns of any contract, in any order of fields and branches: the bytes are fastavro's own."""
    contract, batch = drawn
    wanted = RecordCodec(contract.schema, 77).encode(event_records(batch, contract))

    writer = EventWriter(contract)

    assert writer.write(batch, frame(77)) == wanted
    assert writer.write(batch, frame(77)) == wanted, "with what it remembers"


@given(st.lists(INT64 | st.integers(-70, 70)), st.data())
@settings(max_examples=300, deadline=None)
def test_integers_are_fastavros(values: list[int], data: st.DataObject) -> None:
    """Any int64, beside whatever takes other numbers of bytes, null or not."""
    null = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    column = np.array(values, np.int64)
    parts = [
        integers(column), fixed(b"ab"), nullable(integers(column), np.array(null, bool), (1, 0)),
        numbers(column % 251, "u1"), nullable(numbers(column, "<f4"), np.array(null, bool), (0, 1)),
    ]  # fmt: skip

    assert join(parts, len(values)) == [
        written("long", v) + b"ab" + written(["long", "null"], None if absent else v)
        + bytes([v % 251]) + written(["null", "float"], None if absent else v)
        for v, absent in zip(values, null, strict=True)
    ]  # fmt: skip
    assert list(map(integer, values)) == [written("long", v) for v in values]


@given(TEXT, st.lists(TEXT), st.floats())
def test_single_values_are_fastavros(one: str, several: list[str], number: float) -> None:
    """Constants are written like columns."""
    assert text(one) == written("string", one)
    assert texts(several) == written({"type": "array", "items": "string"}, several)
    assert double(number) == written("double", number)


def test_parts_are_joined_row_by_row() -> None:
    """Constants, pieces and columns in any mixture; as many messages as there are rows, also none."""
    column = numbers(np.array([7, 8]), "u1")

    assert join([b"a", [b"b", b""], column, column, memoryview(b"xy").cast("c").tolist()], 2) == [
        b"ab\7\7x",
        b"a\x08\x08y",
    ]
    assert join([b"a", b"b"], 3) == [b"ab"] * 3
    assert join([b"a", integers(np.array([], np.int64))], 0) == []


def test_what_is_remembered_is_bounded() -> None:
    """However many and long the texts are: few are kept, and all are right."""
    values = [f"server-{i}" for i in range(100)] + ["x" * 1000] * 3
    pieces = Pieces(text, most=10)

    assert pieces.of(values + values) == [written("string", v) for v in values + values]
    assert len(pieces) <= 10
    assert max(map(len, pieces)) < 1000


E2 = enum("E", "a", "b")
WRONG: dict[str, tuple[Any, str, Any, str]] = {
    "NaN": ("int", "reals", math.nan, "nan"),
    "infinite": (["null", "int"], "reals", math.inf, "inf"),
    "int too large": ("int", "reals", 2.0**31, "2147483648"),
    "nullable int too small": (["null", "int"], "reals", -(2.0**31) - 1, "-2147483649"),
    "long too large": ("long", "reals", 2.0**63, "9.22"),
    "null": (E2, "enums", -1, "-1"),
    "no symbol": (["null", E2], "enums", 2, "2"),
    "no such null": (["null", E2], "enums", -2, "-2"),
    "null text": ("string", "labels", None, "None"),
    "null truth": ("boolean", "labels", None, "None"),
    "bytes": (["null", "string"], "labels", b"x", "b'x'"),
    "truth": ("string", "labels", True, "True"),
    "text": (["null", "boolean"], "labels", "yes", "'yes'"),
    "surrogate": ("string", "labels", "\ud800", "ud800"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_avro_cannot_hold_is_an_error(name: str) -> None:
    """A value that is not of its field's type is refused with the field's name and the value."""
    avro, where, value, told = WRONG[name]
    contract = Contract(contracts.schema(field("load", "double", "target"), field("odd", avro, "context")))
    batch = EventBatch.allocate(contract, 2)
    batch.reals[:] = 1
    getattr(batch, where)[:, -1] = [{"reals": 1, "enums": 0, "labels": value}[where], value]

    with pytest.raises((ValueError, TypeError), match="odd") as raised:
        EventWriter(contract).write(batch, frame(1))
    assert told in str(raised.value)
