from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.partition import Partition
from schemas.batch import EventBatch
from schemas.contract import Contract
from tests import contracts
from tests.models.reference import ReferencePartition

START_MS = 1_700_000_000_000
CONTRACTS = {
    "plain": Contract(contracts.schema()),
    "rich": contracts.rich(),
    "lag": contracts.rich(known=["season_lag"], season_steps=5, horizon_steps=5),
    "lag beyond": contracts.rich(known=["season_lag"], season_steps=9, max_gap_steps=0),
    "every third": contracts.rich(forecast_every_steps=3, max_gap_steps=30, allowed_lateness_seconds=0),
    "late a step": contracts.rich(allowed_lateness_seconds=25, max_ahead_seconds=0),
}


@st.composite
def logs(draw: st.DrawFn, contract: Contract) -> tuple[EventBatch, np.ndarray]:
    """A log of few servers: mostly forward in time, with disorder, duplicates, gaps, silence and wrong clocks."""
    n = draw(st.integers(1, 120))
    seed = draw(st.integers(0, 2**32 - 1))
    pace = draw(st.sampled_from([500, 4_000, 15_000]))
    rng = np.random.default_rng(seed)
    batch = EventBatch.allocate(contract, n)
    batch.keys[:] = rng.choice(["a", "b", "c"], n)
    jumps = rng.choice([0, 1, 1, 1, 8, 60], n) * rng.integers(0, pace, n)
    batch.time[:] = START_MS + np.cumsum(jumps) + rng.choice([0, 0, -1, 1], n) * rng.integers(0, 30_000, n)
    batch.reals[:] = rng.normal(50, 10, batch.reals.shape)
    for column, field in enumerate(contract.reals):
        if field.nullable:
            batch.reals[rng.random(n) < 0.6, column] = np.nan
    for column, field in enumerate(contract.enums):
        batch.enums[:, column] = rng.integers(0, len(field.symbols), n)
    for column in range(len(contract.labels)):
        batch.labels[:, column] = rng.choice(["x", "y", None], n)
    record_time = np.maximum.accumulate(batch.time - rng.integers(-2_000, 15_000, n))
    return batch, record_time


def run(contract: Contract, batch: EventBatch, record_time: np.ndarray, edges: list[int]) -> dict[str, list[Any]]:
    """Feed the log in chunks cut at ``edges``; everything that came out, in order."""
    partition = Partition(contract)
    out: dict[str, list[Any]] = {"steps": [], "forecasts": [], "rejected": []}
    for start, end in zip([0, *edges], [*edges, len(batch)], strict=True):
        rows = slice(start, end)
        offset = np.arange(start, end, dtype=np.int64) * 2  # a compacted or transactional log has holes
        parts, rejected = partition.advance(batch.take(rows), offset, record_time[rows])
        out["rejected"] += [(int(offset[r.row]), r.stage) for r in rejected]
        for closed, due in parts:
            out["steps"] += list(step_tuples(partition, closed, offset))
            for block in due:
                out["forecasts"] += list(forecast_tuples(block))
    return out


def step_tuples(partition: Partition, closed: Any, offset: np.ndarray) -> Any:
    for i in range(len(closed)):
        yield (
            partition.keys[closed.slot[i]], int(closed.step[i]), int(closed.count[i]), bool(closed.held[i]),
            closed.held_inputs[i].tolist(), closed.reals[i].tobytes(), closed.enums[i].tolist(),
            closed.labels[i].tolist(), int(offset[closed.closer[i]]),
        )  # fmt: skip


def forecast_tuples(block: Any) -> Any:
    w = block.windows
    for i, key in enumerate(block.keys):
        n = int(w.lengths[i])
        lag = np.concatenate([w.lag[i, :n], w.lag[i, w.reals.shape[1] :]])
        yield (
            key, int(w.last_step[i]), n, int(w.held[i]), w.reals[i, :n].tobytes(), w.categories[i, :n].tolist(),
            w.statics[i].tolist(), lag.tobytes(),
        )  # fmt: skip


def naive(contract: Contract, batch: EventBatch, record_time: np.ndarray) -> dict[str, list[Any]]:
    reference = ReferencePartition(contract)
    refused = []
    limit = contract.settings.max_ahead_seconds * 1000
    for row in range(len(batch)):
        if batch.time[row] > record_time[row] + limit or (contract.reals[0].minimum == 0 and batch.reals[row, 0] < 0):
            refused.append((2 * row, "validate"))
        else:
            reference.event(batch, row, 2 * row, int(record_time[row]))
    steps = [
        (
            s["key"], s["step"], s["count"], s["held"], s["held_inputs"], np.array(s["reals"]).tobytes(),
            s["enums"], s["labels"], s["closer"],
        )
        for s in reference.steps
    ]  # fmt: skip
    forecasts = [
        (
            f["key"], f["step"], f["length"], f["held"], f["reals"].tobytes(), f["categories"].tolist(),
            f["statics"], f["lag"].tobytes(),
        )
        for f in reference.forecasts
    ]  # fmt: skip
    rejected = sorted([*refused, *((offset, "late") for offset in reference.late)])
    return {"steps": steps, "forecasts": forecasts, "rejected": rejected}


@pytest.mark.parametrize("name", CONTRACTS)
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_any_chunking_equals_one_event_at_a_time(name: str, data: st.DataObject) -> None:
    """History in any chunks gives bit for bit the steps, windows and refusals of the naive one-pass reading."""
    contract = CONTRACTS[name]
    batch, record_time = data.draw(logs(contract))
    edges = sorted(data.draw(st.lists(st.integers(0, len(batch)), max_size=6)))
    expected = naive(contract, batch, record_time)

    got = run(contract, batch, record_time, edges)

    assert got["rejected"] == expected["rejected"]
    assert sorted(got["steps"], key=lambda s: s[:2]) == sorted(expected["steps"], key=lambda s: s[:2])
    assert sorted(got["forecasts"], key=lambda f: f[:2]) == sorted(expected["forecasts"], key=lambda f: f[:2])


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_order_of_publication_does_not_depend_on_chunks(data: st.DataObject) -> None:
    """Steps come out in the order of their closing, the same in one chunk as in many."""
    contract = CONTRACTS["rich"]
    batch, record_time = data.draw(logs(contract))
    edges = sorted(data.draw(st.lists(st.integers(0, len(batch)), max_size=6)))

    whole = run(contract, batch, record_time, [])["steps"]
    chunked = run(contract, batch, record_time, edges)["steps"]

    assert [s[8] for s in whole] == [s[8] for s in chunked]
    assert {s[8]: s[1] for s in whole} == {s[8]: s[1] for s in chunked}


@pytest.mark.parametrize("chunks", [[], [1], [1, 2, 3]])
def test_a_jump_of_more_than_a_window_is_counted(chunks: list[int]) -> None:
    """One event far ahead of the others is counted once, however the log is cut; ordinary gaps are not."""
    contract = CONTRACTS["plain"]
    batch = EventBatch.allocate(contract, 4)
    batch.keys[:], batch.reals[:] = "a", 1.0
    batch.time[:] = START_MS + np.array([0, 30_000, 120_000, 125_000])
    partition = Partition(contract)
    for start, end in zip([0, *chunks], [*chunks, 4], strict=True):
        parts, _ = partition.advance(batch.take(slice(start, end)), np.arange(start, end, dtype=np.int64))
        for _closed, due in parts:
            list(due)

    assert partition.jumps == 1
