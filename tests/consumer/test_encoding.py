import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.encoding import ForecastEncoder, Source, StepEncoder
from models.partition import DueWindows
from models.runtime import Quantiles
from models.windows import ClosedSteps, WindowBatch
from schemas.contract import Contract
from schemas.fields import ContractField
from schemas.records import forecast_schema, step_schema
from tests import contracts
from tests.contracts import enum, field
from tests.records import RecordCodec, forecast_records, quantiles_of, step_records

FINGERPRINT = "f" * 64
CONTRACTS = {
    "shipped": Contract.load(),
    "rich": contracts.rich(),
    "one target": Contract(contracts.schema(horizon_steps=1, quantiles=[0.5])),
    "many": Contract(
        contracts.schema(
            field("above", "double", "target", unit="°C", breach_above=60),
            field("below", ["null", "float"], "target", breach_below=-0.5),
            field("none", "int", "target", unit="Stück"),
            field("zero", "long", "target", breach_below=0),
            field("huge", ["null", "long"], "target", breach_above=1e30),
            *(field(f"c{i}", ["double", "null"], "covariate") for i in range(5)),
            field("zone", enum("Zone", *(f"z{i}" for i in range(70))), "static"),
            field("kind", ["null", enum("Kind", "a", "b")], "context"),
            field("up", "boolean", "context"),
            field("maybe", ["boolean", "null"], "context"),
            field("name", "string", "context"),
            horizon_steps=70,
            quantiles=[0.1, 0.2, 0.5, 0.9, 0.99],
        )
    ),
}
NAMES = st.text(st.characters(exclude_categories=["Cs"]))
INT32 = st.integers(0, 2**31 - 1)


def column(draw: st.DrawFn, value: st.SearchStrategy[Any], n: int, dtype: Any) -> Any:
    return np.array(draw(st.lists(value, min_size=n, max_size=n)), dtype)


def table(draw: st.DrawFn, fields: tuple[ContractField, ...], n: int, dtype: Any) -> Any:
    found = np.empty((n, len(fields)), dtype)
    for i, f in enumerate(fields):
        value: st.SearchStrategy[Any] = st.floats(allow_nan=False)
        null: Any = math.nan
        if f.is_enum:
            value, null = st.integers(0, len(f.symbols) - 1), -1
        elif not f.is_real:
            value, null = NAMES if f.avro == "string" else st.booleans(), None
        found[:, i] = column(draw, (st.just(null) | value) if f.nullable else value, n, dtype)
    return found


def steps_of(draw: st.DrawFn, contract: Contract, n: int, servers: int) -> ClosedSteps:
    times = st.integers(-(2**63) // contract.step_ms + 1, 2**63 // contract.step_ms - 1)
    inputs = st.lists(st.booleans(), min_size=len(contract.inputs), max_size=len(contract.inputs))
    patterns = st.sampled_from([[False] * len(contract.inputs), draw(inputs), draw(inputs)])
    zeros = np.zeros(n, np.int64)
    return ClosedSteps(
        slot=column(draw, st.integers(0, servers - 1), n, np.int64),
        step=column(draw, times, n, np.int64),
        count=column(draw, INT32, n, np.int64),
        held=column(draw, st.booleans(), n, bool),
        held_inputs=column(draw, patterns, n, bool).reshape(n, len(contract.inputs)),
        reals=table(draw, contract.reals, n, np.float64),
        enums=table(draw, contract.enums, n, np.int16),
        labels=table(draw, contract.labels, n, object),
        closer=zeros, available=zeros, due=zeros.astype(bool),
    )  # fmt: skip


@pytest.mark.parametrize("name", CONTRACTS)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_steps_are_fastavros(name: str, data: st.DataObject) -> None:
    """Any closed steps: the bytes are those that fastavro writes of their records."""
    contract = CONTRACTS[name]
    keys = data.draw(st.lists(NAMES, min_size=1, max_size=3))
    closed = steps_of(data.draw, contract, data.draw(st.integers(0, 5)), len(keys))
    wanted = RecordCodec(step_schema(contract), 8).encode(step_records(closed, keys, contract, FINGERPRINT))

    found = StepEncoder(contract, 8, FINGERPRINT).encode(closed, [keys[slot] for slot in closed.slot])

    assert found == wanted


def test_a_step_without_a_required_value_is_an_error() -> None:
    """A symbol that is not there is refused with its field's name: no step is published as another."""
    contract = CONTRACTS["rich"]
    closed = ClosedSteps(
        *(np.zeros(1, np.int64) for _ in range(3)), held=np.zeros(1, bool), held_inputs=np.zeros((1, 3), bool),
        reals=np.ones((1, 4)), enums=np.array([[-1, 0]], np.int16), labels=np.full((1, 1), None),
        closer=np.zeros(1, np.int64), available=np.ones(1, np.int64), due=np.zeros(1, bool),
    )  # fmt: skip

    with pytest.raises(ValueError, match="state: -1"):
        StepEncoder(contract, 8, FINGERPRINT).encode(closed, ["a"])


def outputs(contract: Contract, rows: int, rng: np.random.Generator) -> Quantiles:
    """Around the thresholds, medians at them, far from them, all one value; a few not finite."""
    shape = (rows, len(contract.targets), len(contract.settings.quantiles), contract.settings.horizon_steps)
    thresholds = [f.breach_above if f.breach_above is not None else f.breach_below or 0 for f in contract.targets]
    center = np.array(thresholds)[None, :, None, None]
    width = rng.choice([0.0, 1.0, 1e6], (*shape[:2], 1, 1))
    spread = np.sort(rng.normal(size=shape), axis=2)
    spread -= spread[:, :, [shape[2] // 2]] * rng.choice([0, 1], (*shape[:2], 1, shape[3]))
    values = (center + rng.choice([-2, 0, 0, 2], (*shape[:2], 1, 1)) + width * spread).astype(np.float32)
    finite = rng.random(rows) < rng.choice([0.0, 0.8, 1.0], p=[0.1, 0.4, 0.5])
    values[~finite, rng.integers(shape[1]), -1, -1] = rng.choice([np.nan, np.inf])
    with np.errstate(invalid="ignore"):  # breaches of what is withheld, too
        return quantiles_of(contract, values, finite)


def due_windows(contract: Contract, rows: int, rng: np.random.Generator, keys: list[str]) -> DueWindows:
    zeros = np.zeros(rows, np.int64)
    limit = 2**62 // contract.step_ms
    steps = ClosedSteps(
        zeros, rng.choice([-limit, -1, 5_000_000, limit], rows) + rng.integers(0, 100, rows), *[zeros] * 9
    )
    nothing = np.zeros((rows, 0))
    windows = WindowBatch(
        nothing, nothing, nothing, rng.integers(1, 2**20, rows), rng.integers(0, 300, rows), zeros, nothing
    )
    return DueWindows(steps, keys, windows)


@pytest.mark.parametrize("name", CONTRACTS)
@given(rows=st.integers(0, 70), seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=40, deadline=None)
def test_forecasts_are_fastavros(name: str, rows: int, seed: int, data: st.DataObject) -> None:
    """Any forecasts, one block or more: fastavro's bytes of those that are finite; call after call, none mixed up."""
    contract, rng = CONTRACTS[name], np.random.default_rng(seed)
    names = data.draw(st.lists(NAMES, min_size=1, max_size=3))
    topic, partition = data.draw(NAMES), data.draw(INT32)
    lineage = {"model_version": data.draw(NAMES), "contract_fingerprint": FINGERPRINT}
    codec = RecordCodec(forecast_schema(), 9)
    encoder = ForecastEncoder(contract, 9, lineage["model_version"], FINGERPRINT)
    found, wanted = [], []
    for _ in range(2):
        due = due_windows(contract, rows, rng, [names[i % len(names)] for i in range(rows)])
        quantiles = outputs(contract, rows, rng)
        offsets = rng.choice([0, 2**62], rows) + rng.integers(0, 1000, rows)
        found += encoder.encode(due, quantiles, Source(topic, partition, offsets))
        with np.errstate(invalid="ignore"):  # the reference works out breaches of what is withheld, too
            records = list(forecast_records(due, quantiles, contract, lineage, (topic, partition, offsets)))
        wanted += codec.encode(records)
        assert len(records) == int(quantiles.finite.sum())

    assert found == wanted
