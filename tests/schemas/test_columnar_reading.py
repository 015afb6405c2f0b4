import copy
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import batch_decoding
from schemas.codec import EventCodec, frame
from schemas.contract import Contract
from schemas.errors import UnreachableError
from tests import contracts
from tests.contracts import enum, field
from tests.schemas.test_codec import (
    COMPATIBLE,
    INCOMPATIBLE,
    RICH,
    SYMBOLS,
    VALUES,
    WHOLE_RECORD,
    Schemas,
    Silent,
    contract_and_records,
    evolved,
    written,
)

Messages = list[bytes | None]
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(autouse=True, scope="module")
def _however_few() -> Iterator[None]:
    """Small batches are read by columns too, or most examples would try fastavro against itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_decoding, "FEW", 1)
        yield


def assert_as_fastavro(contract: Contract, messages: Sequence[bytes | None], *writers: Any) -> EventCodec:
    """Decoded twice by columns (the second time with what was cached), bit by bit what fastavro gives."""
    codec = EventCodec(contract, Schemas(*writers))
    events, kept, rejected = codec._decode_each(messages)
    for _ in range(2):
        found, found_kept, found_rejected = codec.decode(messages)
        assert (found_kept, found_rejected) == (kept, rejected)
        assert found.keys.tolist() == events.keys.tolist()
        assert found.labels.tolist() == events.labels.tolist()
        assert list(map(type, found.labels.ravel())) == list(map(type, events.labels.ravel()))
        for name in ("time", "reals", "enums", "labels", "keys"):
            one, other = getattr(found, name), getattr(events, name)
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert one.dtype == object or one.tobytes() == other.tobytes(), name
    return codec


def fastavros_rows(codec: EventCodec, messages: Messages, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of the messages are read one by one."""
    seen = 0

    def each(odd: Sequence[bytes | None]) -> batch_decoding.Decoded:
        nonlocal seen
        seen += len(odd)
        return codec._decode_each(odd)

    monkeypatch.setattr(codec._columnar, "_each", each)
    codec.decode(messages)
    return seen


def seeded(seed: int) -> random.Random:
    """The same numbers each time."""
    return random.Random(seed)  # noqa: S311  # damage, no secrets


def damaged(rng: random.Random, message: bytes) -> bytes:
    """One to three bytes flipped, inserted, removed or set to a telling value; or the end cut off."""
    body = bytearray(message)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(body) + 1) if rng.random() < 0.8 else min(rng.randrange(16), len(body))
        what = rng.randrange(5)
        if what == 0:
            body[at:at] = rng.randbytes(rng.randint(1, 3))
        elif what == 1:
            del body[at : at + rng.choice((1, 2, 3, len(body)))]
        elif what == 2:
            body[at : at + 1] = bytes([rng.choice((0, 1, 2, 3, 4, 0x7F, 0x80, 0x81, 0xFE, 0xFF))])
        elif what == 3:
            body[at:at] = b"\x80" * rng.randint(1, 10)
        elif at < len(body):
            body[at] ^= 1 << rng.randrange(8)
    return bytes(body)


@st.composite
def mixed(draw: st.DrawFn, good: Sequence[bytes], spoil: bool) -> Messages:
    """Up to 60 messages: good ones, tombstones, other ids, ends cut off; with ``spoil`` many damaged ones."""
    rng = draw(st.randoms(use_true_random=False))
    messages: Messages = []
    for _ in range(draw(st.integers(0, 60)) if good else 0):
        message, kind = rng.choice(good), rng.random()
        if spoil and kind < 0.5:
            messages.append(damaged(rng, message))
        elif kind < 0.85:
            messages.append(message)
        else:
            odd = (None, b"", frame(9) + message[5:], b"\1" + message[1:], message[: rng.randrange(len(message))])
            messages.append(rng.choice(odd))
    return messages


@given(contract_and_records(), st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
def test_any_contract_is_read_as_fastavro_does(
    drawn: tuple[Contract, list[dict[str, Any]]], data: st.DataObject
) -> None:
    """Records of every allowed type, among tombstones, unknown ids and cut messages: the same events and reasons."""
    contract, records = drawn
    good = [written(contract.schema, record) for record in records]
    assert_as_fastavro(contract, data.draw(mixed(good, spoil=False)), contract.schema)


@given(contract_and_records(), st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=SLOW)
def test_damaged_messages_are_judged_as_fastavro_does(
    drawn: tuple[Contract, list[dict[str, Any]]], data: st.DataObject
) -> None:
    """Bytes flipped, inserted and removed, in any contract: the same events, the same refusals, the same words."""
    contract, records = drawn
    good = [written(contract.schema, record) for record in records]
    assert_as_fastavro(contract, data.draw(mixed(good, spoil=True)), contract.schema)


PROMOTED = {
    "double": ("int", "long", "float", "double"),
    "float": ("int", "long", "float", "double"),
    "long": ("int", "long", "float"),
    "int": ("int", "long"),
    "string": ("string", "bytes"),
}
EXTRA: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "null": ("null", st.none()),
    "boolean": ("boolean", st.booleans()),
    "int": ("int", VALUES["int"]),
    "long": ("long", st.integers(-(2**63), 2**63 - 1)),
    "float": ("float", VALUES["float"]),
    "double": ("double", VALUES["double"]),
    "string": ("string", st.text(max_size=100)),
    "bytes": ("bytes", st.binary(max_size=100)),
    "fixed": ({"type": "fixed", "name": "Five", "size": 5}, st.binary(min_size=5, max_size=5)),
    "enum": (enum("Extra", *(f"s{i}" for i in range(100))), st.sampled_from([f"s{i}" for i in range(100)])),
    "array": ({"type": "array", "items": "int"}, st.lists(st.integers(0, 9), max_size=3)),
    "record": (
        {"type": "record", "name": "Inner", "fields": [{"name": "a", "type": "int"}]},
        st.fixed_dictionaries({"a": st.integers(0, 9)}),
    ),
    "three": (["null", "int", "string"], st.none() | st.integers(0, 9) | st.just("x")),
}
MANY = tuple(f"many{i}" for i in range(90))  # more than one byte's worth
DEFAULTS: dict[str, st.SearchStrategy[Any]] = {
    **{kind: st.sampled_from([0, -7]) for kind in ("int", "long")},
    **{kind: st.sampled_from([0.5, -7.0]) for kind in ("float", "double")},
    "string": st.sampled_from(["", "näh"]),
    "boolean": st.booleans(),
    "enum": st.sampled_from(SYMBOLS),
}


def _bare(avro: Any) -> tuple[Any, bool]:
    """The type, and whether null is allowed beside it."""
    return (next(a for a in avro if a != "null"), True) if isinstance(avro, list) else (avro, False)


@st.composite
def field_evolution(draw: st.DrawFn, raw: dict[str, Any]) -> tuple[Any, st.SearchStrategy[Any]] | None:
    """The writer's type for a contract's field and its values, or None: it has no such field. ``raw`` may change."""
    avro, nullable = _bare(raw["type"])
    kind = avro["type"] if isinstance(avro, dict) else avro
    if raw["name"] == "at":
        return draw(st.sampled_from([("int", VALUES["int"]), (avro, st.integers(-(2**62), 2**62))]))
    if raw["name"] != "host" and draw(st.integers(0, 3)) == 0:
        if draw(st.integers(0, 4)):
            none_first = isinstance(raw["type"], list) and raw["type"][0] == "null"
            raw["default"] = None if none_first else draw(DEFAULTS[kind])
        return None
    if kind == "enum":
        if draw(st.booleans()):
            avro["default"] = draw(st.sampled_from(SYMBOLS))
        symbols = draw(st.permutations([*SYMBOLS, *draw(st.sampled_from([(), ("new", "newer"), MANY]))]))
        symbols = symbols[: draw(st.integers(1, len(symbols)))]
        writers, value = enum(avro["name"], *symbols), st.sampled_from(symbols)
    else:
        writers = draw(st.sampled_from(PROMOTED.get(kind, (kind,)))) if draw(st.booleans()) else kind
        value = {**VALUES, "bytes": st.text().map(str.encode)}[writers]
    if nullable != (draw(st.integers(0, 5)) == 0):
        return draw(st.permutations(["null", writers])), value | st.none()
    return writers, value


@st.composite
def evolution(draw: st.DrawFn) -> tuple[Contract, dict[str, Any], list[dict[str, Any]]]:
    """A contract, a writer's schema that came before or after it (readable or not), and records of that writer."""
    contract, _ = draw(contract_and_records())
    schema = copy.deepcopy(contract.schema)
    fields: list[dict[str, Any]] = []
    values: dict[str, st.SearchStrategy[Any]] = {}
    for raw in schema["fields"]:
        found = draw(field_evolution(raw))
        if found is not None:
            fields.append({"name": raw["name"], "type": found[0]})
            values[raw["name"]] = found[1]
    for name in draw(st.lists(st.sampled_from(sorted(EXTRA)), max_size=3, unique=True)):
        avro, value = copy.deepcopy(EXTRA[name][0]), EXTRA[name][1]
        if name not in ("null", "three") and draw(st.booleans()):
            avro, value = draw(st.permutations(["null", avro])), value | st.none()
        fields.append({"name": f"x_{name}", "type": avro})
        values[f"x_{name}"] = value
    if draw(st.booleans()):
        fields = draw(st.permutations(fields))
    writer = {**schema, "fields": fields}
    return Contract(schema), writer, draw(st.lists(st.fixed_dictionaries(values), min_size=1, max_size=4))


@given(evolution(), st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=SLOW)
def test_evolved_writers_are_read_as_fastavro_does(
    drawn: tuple[Contract, dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    """Fields added, gone, reordered, promoted, made nullable; symbols added, gone, reordered: the same in all."""
    contract, writer, records = drawn
    good = [written(writer, record) for record in records]
    messages = data.draw(mixed(good, spoil=data.draw(st.booleans())))
    assert_as_fastavro(contract, [*good, *messages], writer)


def shipped_messages(n: int, rng: random.Random) -> list[bytes]:
    """Events of the shipped contract, a tenth of the nullable values null."""
    contract = Contract.load()
    messages = []
    for i in range(n):
        values: dict[str, Any] = {f.name: None if f.nullable and rng.random() < 0.1 else rng.uniform(0, 99)
                                  for f in contract.reals}  # fmt: skip
        values |= {f.name: rng.choice(f.symbols) for f in contract.enums}
        key = {contract.key.name: f"web-{i % 97:04d}", contract.time.name: 1_767_225_600_000 + i}
        messages.append(written(contract.schema, values | key))
    return messages


def test_twenty_thousand_damaged_events() -> None:
    """Damaged events of the shipped contract, always the same ones: the same events, positions and reasons."""
    rng = seeded(20261127)
    contract, good = Contract.load(), shipped_messages(200, rng)
    refused = 0
    for _ in range(40):
        messages = [damaged(rng, rng.choice(good)) for _ in range(500)]
        codec = assert_as_fastavro(contract, messages, contract.schema)
        refused += len(codec.decode(messages)[2])
    assert 5_000 < refused < 19_500, "both outcomes are tried"


@pytest.mark.parametrize("null", [True, False])
def test_every_byte_of_an_event_set_to_every_value(null: bool) -> None:
    """Tags, booleans, enum indexes, lengths, varints and floats: whatever byte stands there, it is read the same."""
    contract = Contract(contracts.schema(
        field("load", "float", "target"), field("queue", ["double", "null"], "target"), field("a", "int", "covariate"),
        field("state", enum("E", *SYMBOLS), "category"), field("zone", ["null", enum("F", *SYMBOLS)], "context"),
        field("on", "boolean", "context"), field("off", ["null", "boolean"], "context"),
        field("note", ["string", "null"], "context"),
    ))  # fmt: skip
    values = {"queue": 0.5, "zone": "mid", "off": True, "note": "né"}
    record = {"host": "h", "at": 1_700_000_000_123, "load": 1.5, "a": -300, "state": "mid", "on": False}
    good = written(contract.schema, record | {name: None if null else value for name, value in values.items()})
    messages = [good[:at] + bytes([octet]) + good[at + 1 :] for at in range(len(good)) for octet in range(256)]
    assert_as_fastavro(contract, messages, contract.schema)


def test_plain_events_do_without_fastavro(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events in order, nulls and all, are read by columns; of others, only those that are not go the long way."""
    messages: Messages = list(shipped_messages(300, seeded(1)))
    shipped = Contract.load()
    codec = EventCodec(shipped, Schemas(shipped.schema))
    assert fastavros_rows(codec, messages, monkeypatch) == 0
    messages[7], messages[9] = None, messages[9] + b"\0"  # type: ignore[operator]
    assert fastavros_rows(codec, messages, monkeypatch) == 2

    rich = EventCodec(RICH, Schemas(RICH.schema))
    assert fastavros_rows(rich, [written(RICH.schema, WHOLE_RECORD)] * 9, monkeypatch) == 0


def test_a_bad_row_never_costs_its_batch() -> None:
    """Each kind of bad row, and each kind of rare good one, among good ones: these come through in order."""
    good = written(RICH.schema, WHOLE_RECORD)
    rare = [
        written(RICH.schema, {**WHOLE_RECORD, "at": -(2**62)}),
        written(RICH.schema, {**WHOLE_RECORD, "host": "ß" * 500}),
        good[:5] + b"\x8a\x80\0" + good[6:],  # a length in more bytes than it needs
    ]
    bad = [
        None, b"", b"\0\0", frame(7) + good[5:], good[:-1], good + b"x", good[:5] + b"\xff" * 12 + good[5:],
        good[:6] + b"\xff" + good[7:], good[:5] + b"\1" + good[6:],
        written(RICH.schema, {**WHOLE_RECORD, "queue": math.nan}),
    ]  # fmt: skip
    messages: Messages = []
    for row in [*rare, *bad]:
        messages += [good, row]
    codec = assert_as_fastavro(RICH, messages, RICH.schema)
    _, kept, rejected = codec.decode(messages)

    assert [r.row for r in rejected] == list(range(2 * len(rare) + 1, len(messages), 2))
    assert sorted([*kept, *(r.row for r in rejected)]) == list(range(len(messages)))


@pytest.mark.parametrize("name", [*COMPATIBLE, *INCOMPATIBLE])
def test_writers_of_note(name: str) -> None:
    """The writers that fastavro is tried with come out the same, also next to one another."""
    schema, values = COMPATIBLE[name] if name in COMPATIBLE else INCOMPATIBLE[name][:2]
    other = written(RICH.schema, WHOLE_RECORD, schema_id=2)
    value = values if name == "another record" else {**WHOLE_RECORD, **values}
    assert_as_fastavro(RICH, [other, written(schema, value), None, other, written(schema, value)], schema, RICH.schema)


@pytest.mark.parametrize("symbols", [SYMBOLS, SYMBOLS[::-1], (*SYMBOLS, "new")])
def test_types_by_name(symbols: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """An enum that is defined once and used by three fields is read by columns; so is a writer's with other symbols."""

    def thrice(*symbols: str) -> dict[str, Any]:
        return contracts.schema(
            field("load", "double", "target"), field("a", enum("E", *symbols), "category"),
            field("b", "test.E", "static"), field("c", ["null", "test.E"], "context"),
        )  # fmt: skip

    values = [{"a": a, "b": b, "c": c} for a in SYMBOLS for b in symbols for c in (*SYMBOLS, None)]
    writer = thrice(*symbols)
    messages: Messages = [written(writer, {"host": "h", "at": 1, "load": 2.0, **v}) for v in values]
    codec = assert_as_fastavro(Contract(thrice(*SYMBOLS)), messages, writer)
    assert fastavros_rows(codec, messages, monkeypatch) == sum(v["b"] == "new" for v in values)


def test_enums_named_on_one_side_only() -> None:
    """A writer that names an enum where the contract defines another, or the other way round: fastavro has the word."""
    shared = contracts.schema(
        field("load", "double", "target"), field("a", enum("E", *SYMBOLS), "category"), field("b", "test.E", "static")
    )
    apart = copy.deepcopy(shared)
    apart["fields"][-1]["type"] = enum("F", *SYMBOLS)
    record = {"host": "h", "at": 1, "load": 2.0, "a": "mid", "b": "zeta"}
    for contract, writer in ((shared, apart), (apart, shared)):
        assert_as_fastavro(Contract(contract), [written(writer, record)] * 3, writer)


def test_aliases_are_left_to_fastavro() -> None:
    """Fields renamed by alias are read, if not by columns."""
    renamed = copy.deepcopy(RICH.schema)
    renamed["fields"][2] |= {"name": "burden", "aliases": ["load"]}
    codec = assert_as_fastavro(Contract(renamed), [written(RICH.schema, WHOLE_RECORD)] * 3, RICH.schema)
    assert len(codec.decode([written(RICH.schema, WHOLE_RECORD)])[1]) == 1


@given(st.lists(st.text(max_size=20) | st.sampled_from(["", "a", "a\0", "\0", "ü" * 32, "x" * 63, "x" * 64, "y" * 65,
                                                        "z" * 9000]), min_size=1, max_size=60))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_texts_of_any_length(texts: list[str]) -> None:
    """Keys and labels of any length, with zero bytes or without, keep theirs."""
    messages = [written(RICH.schema, {**WHOLE_RECORD, "host": t, "note": t[::-1]}) for t in texts]
    batch, _, _ = assert_as_fastavro(RICH, messages, RICH.schema).decode(messages)

    assert batch.keys.tolist() == texts
    assert batch.labels[:, 0].tolist() == [t[::-1] for t in texts]


def test_more_servers_than_the_cache_holds() -> None:
    """Hostile or merely many, ids that share the cache's slots are never mistaken for one another."""
    schema = contracts.schema()
    codec = EventCodec(Contract(schema), Schemas(schema))
    names = np.array([f"server-{i:05d}" for i in range(60_000)], dtype=object)
    template = written(schema, {"host": names[0], "at": 1, "load": 2.0})
    messages = [template.replace(names[0].encode(), name.encode()) for name in names]
    for start in (0, 5_000, 0, 30_000, 30_000, 2_500):
        rows = slice(start, start + 30_000)
        assert codec.decode(messages[rows])[0].keys.tolist() == names[rows].tolist()


def test_silence_of_the_registry_costs_nothing() -> None:
    """While an id is unknown and the registry does not answer, decoding raises, whatever else is in the batch."""
    with pytest.raises(UnreachableError):
        EventCodec(RICH, Silent()).decode([written(RICH.schema, WHOLE_RECORD), None, b"x"])


def test_small_batches_are_left_to_fastavro(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the break-even nothing is read by columns."""
    monkeypatch.setattr(batch_decoding, "FEW", 4)
    codec = EventCodec(RICH, Schemas(evolved()))
    message = written(RICH.schema, WHOLE_RECORD)
    assert fastavros_rows(codec, [message] * 3, monkeypatch) == 3
    assert fastavros_rows(codec, [message] * 4, monkeypatch) == 0
