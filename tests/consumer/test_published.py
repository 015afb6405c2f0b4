from typing import Any

import numpy as np
import pytest

from consumer.published import StepReader
from models.partition import Partition
from models.windows import ClosedSteps
from schemas.contract import Contract
from schemas.records import step_schema
from tests import contracts
from tests.models.conftest import events
from tests.records import RecordCodec, step_records

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
    found = [closed for closed, _ in parts]
    steps = ClosedSteps(*(np.concatenate([getattr(c, name) for c in found]) for name in ClosedSteps.__slots__))
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
