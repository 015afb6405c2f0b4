import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.published import Read, StepReader
from models.partition import Partition
from models.windows import ClosedSteps, PublishedSteps
from schemas import batch_decoding
from schemas.batch_decoding import Decoded
from schemas.contract import Contract
from schemas.errors import UnreachableError
from schemas.records import step_schema
from tests import contracts
from tests.models.conftest import events
from tests.records import RecordCodec, step_records
from tests.schemas.test_codec import VALUES, Silent, contract_and_records, written
from tests.schemas.test_columnar_reading import EXTRA, SLOW, damaged, mixed, seeded

CONTRACTS = {"shipped": Contract.load(), "rich": contracts.rich()}
FINGERPRINT = "f" * 64


class Registry:
    def __init__(self, *schemas: dict[str, Any]) -> None:
        self._schemas = dict(enumerate(schemas, 1))

    def writer_schema(self, schema_id: int) -> dict[str, Any] | None:
        return self._schemas.get(schema_id)


def closed_steps(contract: Contract) -> tuple[list[str], ClosedSteps]:
    """Steps of three servers with gaps, so that some are held."""
    batch = events(contract, servers=3, steps=20, missing=0.5)
    partition = Partition(contract)
    parts, _ = partition.advance(batch, np.arange(len(batch)))
    steps = ClosedSteps.concat([closed for closed, _ in parts])
    return [partition.keys[slot] for slot in steps.slot], steps


def encoded(contract: Contract, schema_id: int = 1) -> tuple[list[str], ClosedSteps, list[bytes]]:
    keys, steps = closed_steps(contract)
    by_slot = dict(zip(steps.slot.tolist(), keys, strict=True))
    names = [by_slot.get(slot, "") for slot in range(max(by_slot) + 1)]
    records = step_records(steps, names, contract, FINGERPRINT)
    return keys, steps, RecordCodec(step_schema(contract), schema_id).encode(records)


@pytest.mark.parametrize("name", CONTRACTS)
def test_steps_are_read_back_bit_for_bit(name: str) -> None:
    """What was published is what windows are restored from: numbers, nulls, symbols, labels, held or not."""
    contract = CONTRACTS[name]
    keys, steps, values = encoded(contract)

    read = StepReader(contract, FINGERPRINT, Registry(step_schema(contract))).read(values)

    assert read.steps.keys.tolist() == keys
    for column in ("step", "held", "held_inputs", "reals", "enums", "labels"):
        np.testing.assert_array_equal(getattr(read.steps, column), getattr(steps, column), column)
    assert steps.held.any()
    assert (read.skipped, len(read.kept)) == (0, len(values))


def test_what_is_not_of_these_windows_is_passed_over() -> None:
    """Damaged bytes, unknown ids, no value, and steps of another model part are counted, and cost no neighbour."""
    contract = CONTRACTS["rich"]
    _, steps, values = encoded(contract)
    bad = [None, b"", b"\x01garbage", values[0][:-3], values[0] + b"x", b"\x00\x00\x00\x00\x09" + values[0][5:]]

    read = StepReader(contract, FINGERPRINT, Registry(step_schema(contract))).read([*bad, *values])
    other = StepReader(contract, "0" * 64, Registry(step_schema(contract))).read(values)

    assert read.kept.tolist() == list(range(len(bad), len(bad) + len(values)))
    assert read.skipped == len(bad)
    np.testing.assert_array_equal(read.steps.step, steps.step)
    assert (len(other.steps), other.skipped) == (0, len(values))


def test_an_earlier_schema_of_the_steps_is_read() -> None:
    """Steps written before a context field came have null there; the windows do not need it."""
    contract = CONTRACTS["rich"]
    schema = step_schema(contract)
    optional = next(f["name"] for f in schema["fields"] if f.get("default", "none") is None)
    earlier = {**schema, "fields": [f for f in schema["fields"] if f["name"] != optional]}
    _, steps, _ = encoded(contract)
    by_slot = [f"s{slot}" for slot in range(int(steps.slot.max()) + 1)]
    values = RecordCodec(earlier, 2).encode(step_records(steps, by_slot, contract, FINGERPRINT))

    read = StepReader(contract, FINGERPRINT, Registry(schema, earlier)).read(values)

    assert len(read.kept) == len(values)
    np.testing.assert_array_equal(read.steps.step, steps.step)


class Counting(StepReader):
    """Counts what fastavro is asked for."""

    alone = 0

    def _decode_each(self, values: Sequence[bytes | None]) -> Decoded:
        self.alone += len(values)
        return super()._decode_each(values)


def read_with(few: int, reader: StepReader, values: Sequence[bytes | None]) -> Read:
    """Read where so few rows are left to fastavro: 1 is all by columns, many is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_decoding, "FEW", few)
        return reader.read(values)


def assert_as_fastavro(contract: Contract, values: Sequence[bytes | None], *writers: Any) -> Counting:
    """Read twice by columns (the second time with what was cached), bit by bit what fastavro gives."""
    expected = read_with(1 << 60, StepReader(contract, FINGERPRINT, Registry(*writers)), values)
    reader = Counting(contract, FINGERPRINT, Registry(*writers))
    for _ in range(2):
        reader.alone = 0
        found = read_with(1, reader, values)
        assert (found.kept.tolist(), found.skipped) == (expected.kept.tolist(), expected.skipped)
        for name in PublishedSteps.__slots__:
            one, other = getattr(found.steps, name), getattr(expected.steps, name)
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name
            if one.dtype == object:
                assert [(type(v), v) for v in one.ravel()] == [(type(v), v) for v in other.ravel()], name
            else:
                assert one.tobytes() == other.tobytes(), name
    return reader


def value_of(avro: Any) -> st.SearchStrategy[Any]:
    """Values of a type that steps have."""
    if isinstance(avro, list):
        return st.none() | value_of(avro[1])
    if isinstance(avro, dict) and avro["type"] == "enum":
        return st.sampled_from(avro["symbols"])
    kind = avro["type"] if isinstance(avro, dict) else avro
    times = st.sampled_from([0, -1, 1_700_000_100_000]) | st.integers(-(2**62), 2**62)
    return {**VALUES, "long": times, "boolean": st.booleans(), "bytes": st.text().map(str.encode)}[kind]


def values_of(schema: dict[str, Any], contract: Contract) -> dict[str, st.SearchStrategy[Any]]:
    """Values of each field of the steps; fingerprints mostly ours, few or no inputs held."""
    names = st.lists(st.sampled_from([f.name for f in contract.inputs]), max_size=4)
    special: dict[str, st.SearchStrategy[Any]] = {
        "held_fields": st.just([]) | names,
        "contract_fingerprint": st.sampled_from([FINGERPRINT] * 5 + ["", "f" * 63 + "0", "f" * 63, "other", "é" * 32]),
    }
    return {f["name"]: special[f["name"]] if f["name"] in special else value_of(f["type"]) for f in schema["fields"]}


@given(contract_and_records(), st.data(), st.booleans())
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
def test_steps_of_any_contract_are_read_as_fastavro_does(
    drawn: tuple[Contract, Any], data: st.DataObject, spoil: bool
) -> None:
    """Steps of ours and others, among tombstones, unknown ids, cut and damaged messages: the same in all columns."""
    contract, schema = drawn[0], step_schema(drawn[0])
    fixed = st.fixed_dictionaries(values_of(schema, contract))
    good = [written(schema, record) for record in data.draw(st.lists(fixed, min_size=1, max_size=5))]
    assert_as_fastavro(contract, [*good, *data.draw(mixed(good, spoil=spoil))], schema)


WIDER = {"double": ("int", "long", "float", "double"), "int": ("int", "long"), "string": ("string", "bytes")}


@st.composite
def evolved(draw: st.DrawFn, contract: Contract) -> tuple[dict[str, Any], dict[str, st.SearchStrategy[Any]]]:
    """A writer's schema of steps that came before or after ours, readable or not, and values of its fields."""
    schema = copy.deepcopy(step_schema(contract))
    values = values_of(schema, contract)
    fields = []
    for field in schema["fields"]:
        name, avro, chance = field["name"], field["type"], draw(st.integers(0, 9))
        if (chance < 4 and "default" in field) or (chance == 0 and draw(st.booleans())):
            del values[name]
            continue
        if chance == 1 and not isinstance(avro, list):
            avro = draw(st.permutations(["null", avro]))
            values[name] |= st.none()
        elif chance in (2, 3) and isinstance(avro, str) and avro in WIDER:
            avro = draw(st.sampled_from(WIDER[avro]))
            bare = name not in ("server_id", "contract_fingerprint")
            values[name] = value_of(avro) if bare else values[name].map(str.encode) if avro == "bytes" else values[name]
        fields.append({"name": name, "type": avro})
    for name in draw(st.lists(st.sampled_from(sorted(EXTRA)), max_size=2, unique=True)):
        fields.append({"name": f"x_{name}", "type": copy.deepcopy(EXTRA[name][0])})
        values[f"x_{name}"] = EXTRA[name][1]
    name = draw(st.sampled_from(["MetricStep"] * 9 + ["Other"]))
    return {**schema, "name": name, "fields": draw(st.permutations(fields)) if draw(st.booleans()) else fields}, values


@given(contract_and_records(), st.data(), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
def test_evolved_steps_are_read_as_fastavro_does(drawn: tuple[Contract, Any], data: st.DataObject, spoil: bool) -> None:
    """Fields added, gone, reordered, promoted, made nullable, the record renamed: the same in all columns."""
    contract = drawn[0]
    schema, values = data.draw(evolved(contract))
    records = data.draw(st.lists(st.fixed_dictionaries(values), min_size=1, max_size=4))
    good = [written(schema, record) for record in records]
    assert_as_fastavro(contract, [*good, *data.draw(mixed(good, spoil=spoil))], schema)


@pytest.mark.parametrize("name", CONTRACTS)
def test_twelve_thousand_damaged_steps(name: str) -> None:
    """Damaged steps, held ones among them, always the same ones: the same columns, positions and numbers skipped."""
    rng, contract = seeded(20261128), CONTRACTS[name]
    _, _, good = encoded(contract)
    kept = 0
    for _ in range(12):
        values = [damaged(rng, rng.choice(good)) for _ in range(500)]
        reader = assert_as_fastavro(contract, values, step_schema(contract))
        kept += len(reader.read(values).kept)
    assert 200 < kept < 5_800, "both outcomes are tried"


def test_every_byte_of_a_step_set_to_every_value() -> None:
    """The number of held fields, their lengths and letters, the fingerprint, all the rest: it is read the same."""
    contract = CONTRACTS["rich"]
    _, steps, values = encoded(contract)
    good = values[int(steps.held.argmax())]
    spoilt = [good[:at] + bytes([octet]) + good[at + 1 :] for at in range(len(good)) for octet in range(0, 256, 3)]
    assert_as_fastavro(contract, spoilt, step_schema(contract))


@pytest.mark.parametrize("writer", ["string", {"type": "array", "items": "string"}, {"type": "int"}])
def test_what_no_record_wrote_is_passed_over(writer: Any) -> None:
    """Under our topic's name any schema may be registered."""
    contract = CONTRACTS["rich"]
    _, _, values = encoded(contract)
    assert_as_fastavro(contract, values, writer)


@pytest.mark.parametrize("name", CONTRACTS)
def test_plain_steps_do_without_fastavro(name: str) -> None:
    """Steps, held or not, ours or another model's, are read by columns; of others, only those that are not go alone."""
    contract = CONTRACTS[name]
    schema = step_schema(contract)
    _, _, values = encoded(contract)
    others = [value.replace(FINGERPRINT.encode(), b"e" * 64) for value in values]
    mix: list[bytes | None] = [*values, *others, *values]
    assert assert_as_fastavro(contract, mix, schema).alone == 0
    assert read_with(1, Counting(contract, FINGERPRINT, Registry(schema)), mix).skipped == len(others)
    mix[3], mix[5] = None, values[5] + b"x"
    assert assert_as_fastavro(contract, mix, schema).alone == 2


def test_a_held_input_that_the_contract_lacks_is_passed_over() -> None:
    """It was not written by this service; and it costs no neighbour."""
    contract = CONTRACTS["rich"]
    _, steps, values = encoded(contract)
    name = contract.inputs[0].name.encode()
    spoilt = [value.replace(name, b"?" * len(name)) for value in values]

    read = assert_as_fastavro(contract, [*spoilt, *values], step_schema(contract)).read([*spoilt, *values])

    assert read.skipped == int(steps.held_inputs[:, 0].sum()) > 0


def test_silence_of_the_registry_is_told() -> None:
    """While an id is unknown and the registry does not answer, nothing is read."""
    _, _, values = encoded(CONTRACTS["rich"])
    with pytest.raises(UnreachableError):
        StepReader(CONTRACTS["rich"], FINGERPRINT, Silent()).read(values)
