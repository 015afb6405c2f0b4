"""A partition's state that was lost comes back from the steps that were published and the events of open steps."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.partition import Partition
from models.windows import ClosedSteps, PublishedSteps
from schemas.batch import EventBatch
from schemas.contract import Contract
from tests.models.test_windows import CONTRACTS, forecast_tuples, logs, run, step_tuples

ROW_FIELDS = ("step", "held", "held_inputs", "reals", "enums", "labels")


class Published:
    """The steps' topic of one partition."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.rows: list[ClosedSteps] = []

    def append(self, partition: Partition, closed: ClosedSteps) -> None:
        self.keys += [partition.keys[slot] for slot in closed.slot]
        self.rows.append(closed)

    def since(self, first_needed: int) -> PublishedSteps:
        """From the first record of a step that is needed on: what lies before in the log is not read."""
        keys = np.array(self.keys, dtype=object)
        columns = {name: np.concatenate([getattr(r, name) for r in self.rows]) for name in ROW_FIELDS}
        start = (
            int(np.argmax(columns["step"] >= first_needed)) if (columns["step"] >= first_needed).any() else len(keys)
        )
        return PublishedSteps(keys[start:], *(columns[name][start:] for name in ROW_FIELDS))


def restored(  # noqa: PLR0917  all of it is the log
    contract: Contract, old: Partition, published: Published, log: tuple[EventBatch, np.ndarray], upto: int, cut: int
) -> Partition:
    """A new partition in the state of ``old``, which processed the first ``upto`` events; steps in two reads."""
    batch, record_time = log
    new = Partition(contract)
    if old.watermark_ms is None:
        return new
    if published.rows:
        steps = published.since(old.oldest_needed_step())
        new.restore(steps.take(slice(0, cut)))
        new.restore(steps.take(slice(max(cut - 1, 0), None)))  # a step that is there twice is passed over
    new.resume_at(old.watermark_ms)
    first_open = old.first_open_offset()
    start = upto if first_open is None else first_open // 2
    rows = np.arange(start, upto)
    new.reopen(batch.take(rows), rows * 2, record_time[rows])
    return new


@pytest.mark.parametrize("name", CONTRACTS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_restored_partition_goes_on_as_if_nothing_had_been(name: str, data: st.DataObject) -> None:
    """Wherever the state is lost, steps, windows and refusals are bit for bit those of the undisturbed run."""
    contract = CONTRACTS[name]
    log = batch, record_time = data.draw(logs(contract))
    edges = sorted(data.draw(st.lists(st.integers(0, len(batch)), max_size=6)))
    lost = data.draw(st.lists(st.booleans(), min_size=len(edges) + 1, max_size=len(edges) + 1))
    expected = run(contract, batch, record_time, edges)
    partition, published = Partition(contract), Published()
    out: dict[str, list[Any]] = {"steps": [], "forecasts": [], "rejected": []}

    for start, end, loss in zip([0, *edges], [*edges, len(batch)], lost, strict=True):
        rows = np.arange(start, end)
        parts, rejected = partition.advance(batch.take(rows), rows * 2, record_time[rows])
        out["rejected"] += [(int(2 * rows[r.row]), r.stage) for r in rejected]
        for closed, due in parts:
            out["steps"] += list(step_tuples(partition, closed, rows * 2))
            published.append(partition, closed)
            for block in due:
                out["forecasts"] += list(forecast_tuples(block))
        if loss:
            servers = partition.servers
            cut = data.draw(st.integers(0, 30))
            partition = restored(contract, partition, published, log, end, cut)
            assert partition.servers <= servers, "none that was given up comes back"

    assert out["rejected"] == expected["rejected"]
    # The order among the steps that one event closes is by slot, and a restored partition gives slots anew.
    assert sorted(out["steps"], key=lambda s: s[:2]) == sorted(expected["steps"], key=lambda s: s[:2])
    assert sorted(out["forecasts"], key=lambda f: f[:2]) == sorted(expected["forecasts"], key=lambda f: f[:2])
    assert [s[8] for s in out["steps"]] == [s[8] for s in expected["steps"]]
