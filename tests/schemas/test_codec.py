import copy
import io
import json
import math
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.batch import EventBatch, Rejection
from schemas.codec import EventCodec, frame
from schemas.contract import Contract
from schemas.errors import UnreachableError
from tests import contracts
from tests.contracts import enum, field

RICH = contracts.rich()
WHOLE_RECORD = {
    "host": "näme", "at": 1_700_000_000_123, "load": 1.5, "queue": None, "requests": 7, "state": "busy", "zone": "m",
    "temperature": 20.5, "note": "hello",
}  # fmt: skip
SYMBOLS = ("zeta", "alpha", "mid")


class Schemas:
    """A registry's memory: schemas by id."""

    def __init__(self, *schemas: Any) -> None:
        self.by_id = dict(enumerate(schemas, start=1))
        self.asked = 0

    def writer_schema(self, schema_id: int) -> Any:
        self.asked += 1
        return self.by_id.get(schema_id)


class Silent:
    """A registry that does not answer."""

    def writer_schema(self, schema_id: int) -> Any:
        raise UnreachableError(f"no answer for {schema_id}")


def written(schema: Any, value: dict[str, Any], schema_id: int = 1) -> bytes:
    """A framed message as fastavro writes it; times are integers."""
    out = io.BytesIO()
    out.write(frame(schema_id))
    fastavro.schemaless_writer(out, fastavro.parse_schema(copy.deepcopy(schema)), value)
    return out.getvalue()


def decode(contract: Contract, writer: Any, *messages: bytes | None) -> tuple[EventBatch, list[int], list[Rejection]]:
    return EventCodec(contract, Schemas(writer)).decode(messages)


def reason(contract: Contract, writer: Any, message: bytes | None) -> str:
    """Why the message is refused; it must be, and alone."""
    batch, kept, rejected = decode(contract, writer, message)
    assert (len(batch), kept, len(rejected)) == (0, [], 1)
    return f"{rejected[0].stage}: {rejected[0].reason}"


def evolved(**changes: Any) -> dict[str, Any]:
    """The rich schema, with other types for the fields named; None removes one."""
    schema = copy.deepcopy(RICH.schema)
    schema["fields"] = [
        {**f, "type": changes.get(f["name"], f["type"])}
        for f in schema["fields"]
        if changes.get(f["name"], f["type"]) is not None
    ]
    return schema


# Every type that a contract allows, with values that survive float64.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(allow_nan=False),
    "float": st.floats(allow_nan=False, width=32),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**53), 2**53),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
    "boolean": st.booleans(),
    "enum": st.sampled_from(SYMBOLS),
}
ROLES = {
    "target": ("double", "float", "int", "long"),
    "covariate": ("double", "float", "int", "long"),
    "category": ("enum",),
    "static": ("enum",),
    "context": tuple(VALUES),
}


@st.composite
def contract_and_records(draw: st.DrawFn) -> tuple[Contract, list[dict[str, Any]]]:
    fields: list[dict[str, Any]] = []
    values: dict[str, st.SearchStrategy[Any]] = {
        "host": VALUES["string"],
        "at": st.integers(-(2**53), 2**53),
    }
    micros = draw(st.booleans())
    roles = ["target", *draw(st.lists(st.sampled_from(sorted(ROLES)), max_size=7))]
    for i, role in enumerate(roles):
        kind = draw(st.sampled_from(ROLES[role]))
        avro: Any = enum(f"E{i}", *SYMBOLS) if kind == "enum" else kind
        value = VALUES[kind]
        if role not in ("category", "static") and draw(st.booleans()):
            avro = draw(st.permutations(["null", avro]))
            value = st.none() | value
        fields.append(field(f"f{i}", avro, role))
        values[f"f{i}"] = value
    schema = contracts.schema(*draw(st.permutations(fields)))
    if micros:
        schema["fields"][1]["type"]["logicalType"] = "timestamp-micros"
        values["at"] = st.integers(-(2**43), 2**43).map(lambda ms: ms * 1000)
    return Contract(schema), draw(st.lists(st.fixed_dictionaries(values), max_size=5))


@given(contract_and_records())
@settings(max_examples=150, deadline=None)
def test_round_trip_is_fastavros(drawn: tuple[Contract, list[dict[str, Any]]]) -> None:
    """Any records of any contract: decoded, every value is there; encoded again, the bytes are fastavro's own."""
    contract, records = drawn
    messages = [written(contract.schema, record) for record in records]
    codec = EventCodec(contract, Schemas(contract.schema))

    batch, kept, rejected = codec.decode(messages)

    assert (kept, rejected) == (list(range(len(records))), [])
    assert codec.encode(batch, schema_id=1) == messages
    for i, record in enumerate(records):
        assert batch.keys[i] == record["host"]
        assert batch.time[i] * contract.time_units_per_ms == record["at"]
        for column, f in enumerate(contract.reals):
            wanted = math.nan if record[f.name] is None else record[f.name]
            np.testing.assert_equal(batch.reals[i, column], float(wanted))
        symbols = [record[f.name] for f in contract.enums]
        assert batch.enums[i].tolist() == [-1 if s is None else SYMBOLS.index(s) for s in symbols]
        assert batch.labels[i].tolist() == [record[f.name] for f in contract.labels]


def test_empty_batch() -> None:
    """Nothing in, nothing out."""
    batch, kept, rejected = decode(RICH, RICH.schema)

    assert (len(batch), kept, rejected) == (0, [], [])
    assert batch.reals.shape == (0, 4)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (None, "no value"),
        (b"", "0 bytes"),
        (b"\0\0\0\0", "4 bytes"),
        (b'{"host": "a"}', "first byte is 123"),
        (b"\1\0\0\0\1", "first byte is 1"),
        (frame(1), "not a value"),
        (frame(9) + b"x", "schema id 9 is not registered"),
        (b"\0\xff\xff\xff\xff ", "schema id 4294967295"),
        (written(RICH.schema, WHOLE_RECORD) + b"\0", "1 bytes are left over"),
        (written(RICH.schema, WHOLE_RECORD)[:-1], "not a value"),
    ],
)
def test_messages_that_are_none(message: bytes | None, told: str) -> None:
    """No value, too few bytes, other magic byte, unknown id, bytes missing or left over: refused with the reason."""
    refused = reason(RICH, RICH.schema, message)

    assert refused.startswith("decode: ")
    assert told in refused


def test_noise_does_not_ask_the_registry() -> None:
    """An id that no registry gives out is refused without a request; an unknown one is asked for each time."""
    schemas = Schemas()
    codec = EventCodec(RICH, schemas)
    codec.decode([b"\0\x80\0\0\0 ", b"x", None])
    assert schemas.asked == 0

    codec.decode([frame(1) + b"x"])
    schemas.by_id[1] = RICH.schema
    batch, _, _ = codec.decode([written(RICH.schema, WHOLE_RECORD)])

    assert len(batch) == 1, "a schema that is registered later is found"


def test_a_bad_message_costs_nobody_else() -> None:
    """Whatever is wrong with one message, its neighbours come through, with their positions."""
    good = written(RICH.schema, WHOLE_RECORD)
    batch, kept, rejected = decode(RICH, RICH.schema, None, good, b"", good[:-2], good, good + b"\0", good)

    assert kept == [1, 4, 6]
    assert [r.row for r in rejected] == [0, 2, 3, 5]
    assert batch.keys.tolist() == ["näme"] * 3


@given(st.lists(st.none() | st.binary(max_size=80) | st.binary(max_size=60).map(lambda b: frame(1) + b), max_size=20))
@settings(max_examples=200, deadline=None)
def test_noise_is_refused_not_raised(messages: list[bytes | None]) -> None:
    """Random bytes raise nothing: each message is an event or a rejection."""
    batch, kept, rejected = decode(RICH, RICH.schema, *messages)

    assert sorted([*kept, *(r.row for r in rejected)]) == list(range(len(messages)))
    assert len(batch) == len(kept)


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_flipped_bits_are_refused_or_read_as_fastavro_does(position: int, mask: int) -> None:
    """A damaged message is refused, or means what fastavro reads in it; its neighbour is untouched."""
    good = written(RICH.schema, WHOLE_RECORD)
    bad = bytearray(good)
    bad[position % len(good)] ^= mask

    batch, kept, rejected = decode(RICH, RICH.schema, bytes(bad), good)

    assert kept[-1] == 1
    assert len(kept) + len(rejected) == 2
    if len(kept) == 2:
        plain = copy.deepcopy(RICH.schema)
        plain["fields"][1]["type"] = "long"
        value = fastavro.schemaless_reader(io.BytesIO(bytes(bad[5:])), fastavro.parse_schema(plain), None)
        assert (batch.keys[0], batch.time[0], batch.labels[0, 0]) == (value["host"], value["at"], value["note"])
        np.testing.assert_equal(batch.reals[0, 0], value["load"])


def test_nan_in_a_nullable_field_is_not_null() -> None:
    """NaN where null is allowed is refused as invalid, with the field's name: it must not pass for 'not measured'."""
    good = written(RICH.schema, WHOLE_RECORD)
    messages = [written(RICH.schema, {**WHOLE_RECORD, name: math.nan}) for name in ("queue", "temperature")]
    batch, kept, rejected = decode(RICH, RICH.schema, messages[0], good, messages[1])

    assert (len(batch), kept) == (1, [1])
    assert [(r.row, r.stage) for r in rejected] == [(0, "validate"), (2, "validate")]
    assert ["queue" in rejected[0].reason, "temperature" in rejected[1].reason] == [True, True]


COMPATIBLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "the same": (RICH.schema, {}),
    "no annotations": (json.loads(json.dumps(RICH.schema), object_hook=lambda d: {k: v for k, v in d.items()
                                                                               if k != "fleetcast"}), {}),
    "another namespace": ({**RICH.schema, "namespace": "else.where"}, {}),
    "a field more": ({**RICH.schema, "fields": [{"name": "x", "type": {"type": "array", "items": "int"}},
                                                *RICH.schema["fields"]]}, {"x": [1, 2]}),
    "another order": ({**RICH.schema, "fields": RICH.schema["fields"][::-1]}, {}),
    "int for double": (evolved(load="int"), {"load": 2}),
    "long for double": (evolved(load="long"), {"load": 2}),
    "float for double": (evolved(load="float"), {"load": 0.5}),
    "int for long": (evolved(requests="int"), {"requests": 2}),
    "required for nullable": (evolved(queue="double"), {"queue": 2.5}),
    "nullable for required": (evolved(load=["null", "double"]), {"load": 2.5}),
    "bytes for string": (evolved(note="bytes"), {"note": b"hi"}),
    "symbols fewer": (evolved(state=enum("State", "busy", "up")), {"state": "up"}),
    "symbols more, unused": (evolved(state=enum("State", "new", "up", "busy")), {"state": "busy"}),
    "a bare long as time": (evolved(at="long"), {}),
    "a long as time": (evolved(at={"type": "long"}), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPATIBLE)
def test_compatible_writers_are_read(name: str) -> None:
    """A writer's schema that Avro's rules can resolve to the contract keeps flowing, with its values."""
    schema, values = COMPATIBLE[name]
    value = {**WHOLE_RECORD, **values}
    batch, kept, rejected = decode(RICH, schema, written(schema, value))

    assert (kept, rejected) == ([0], [])
    assert batch.reals[0, 0] == value["load"]
    assert batch.reals[0, 2] == value["requests"]
    assert RICH.enums[0].symbols[batch.enums[0, 0]] == value["state"]
    assert batch.time[0] == value["at"]


def test_a_nullable_field_with_a_default_may_be_new_to_writers() -> None:
    """A contract that gained a nullable field with a default reads events written before it."""
    grown = copy.deepcopy(RICH.schema)
    grown["fields"].append({"name": "fans", "type": ["null", "double"], "default": None})
    batch, _, rejected = decode(Contract(grown), RICH.schema, written(RICH.schema, WHOLE_RECORD))

    assert rejected == []
    assert np.isnan(batch.reals[0, -1])


OTHER_RECORD = {"type": "record", "name": "Other", "fields": [{"name": "a", "type": "int"}]}
INCOMPATIBLE: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "field gone": (evolved(load=None), {}, ["load"]),
    "text for a number": (evolved(load="string"), {"load": "5"}, ["string", "double"]),
    "double for long": (evolved(requests="double"), {"requests": 5.0}, ["double", "long"]),
    "unknown symbol": (evolved(state=enum("State", "up", "draining")), {"state": "draining"}, ["draining"]),
    "null for required": (evolved(load=["null", "double"]), {"load": None}, ["double"]),
    "micros": (evolved(at={"type": "long", "logicalType": "timestamp-micros"}), {},
               ["at", "timestamp-micros", "timestamp-millis"]),
    "nullable micros": (evolved(at=["null", {"type": "long", "logicalType": "timestamp-micros"}]), {},
                        ["at", "timestamp-micros"]),
    "another record": (OTHER_RECORD, {"a": 1}, ["Other", "Sample"]),
}  # fmt: skip


@pytest.mark.parametrize("name", INCOMPATIBLE)
def test_incompatible_writers_are_refused(name: str) -> None:
    """A writer's schema, or a value, that cannot be resolved is refused and the reason says what does not fit."""
    schema, values, told = INCOMPATIBLE[name]
    refused = reason(RICH, schema, written(schema, {**WHOLE_RECORD, **values}))

    assert refused.startswith("decode: ")
    assert [word for word in told if word not in refused] == [], refused


@pytest.mark.parametrize(
    "schema",
    [
        "string",
        "PROTOBUF",
        ["null", RICH.schema],
        enum("Sample", "a"),
        {"type": "record", "name": "Sample", "fields": [{"name": "a", "type": "Elsewhere"}]},
        {"type": "record", "name": "Sample", "fields": [{"name": "at", "type": 5}]},
        {"type": "array", "items": "int"},
    ],
)
def test_schemas_of_other_things_are_refused(schema: Any) -> None:
    """A registered schema that is no event, or cannot be read, refuses its messages and raises nothing."""
    assert reason(RICH, schema, frame(1) + b"\2\2").startswith("decode: schema id 1")


def test_silence_of_the_registry_is_not_the_messages_fault() -> None:
    """An unknown id while the registry does not answer raises: nobody's message is refused for it."""
    codec = EventCodec(RICH, Silent())

    with pytest.raises(UnreachableError):
        codec.decode([written(RICH.schema, WHOLE_RECORD)])


def test_schemas_are_asked_for_once() -> None:
    """A known id is not looked up again."""
    schemas = Schemas(RICH.schema)
    codec = EventCodec(RICH, schemas)
    for _ in range(3):
        codec.decode([written(RICH.schema, WHOLE_RECORD)] * 2)

    assert schemas.asked == 1


def test_times_beyond_a_datetime_are_read() -> None:
    """Times before year 1 and after 9999 come through as numbers: validation judges them, nothing overflows."""
    times = [-(2**62), 2**62, 0]
    batch, _, rejected = decode(RICH, RICH.schema, *(written(RICH.schema, {**WHOLE_RECORD, "at": t}) for t in times))

    assert (batch.time.tolist(), rejected) == (times, [])
