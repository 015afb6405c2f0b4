"""The promise of one code path: what the stream publishes is what the same rows give offline."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.artifact import Model
from models.offline import forecast_file
from producer.fleet import Fleet
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.history import read_history
from schemas.mapping import Mapping
from tests.integration.conftest import PARTITIONS, Stream, Subscribed

pytestmark = pytest.mark.integration
CONSTANTS = '[columns]\nstatus = { constant = "healthy" }\nprofile = { constant = "generic" }\n'
START_MS = 1_767_571_200_000  # 2026-01-05


def simulated() -> EventBatch:
    """Six servers, thirteen hours, one of them silent for a while."""
    batch = Fleet(Contract.load(), 6, 1).metrics(START_MS, 60, 13 * 60)
    silent = (batch.keys == batch.keys[0]) & (batch.time >= START_MS + 36e6) & (batch.time < START_MS + 38e6)
    return batch.take(~silent)


def smd(file: Path, hours: int | None = 14) -> EventBatch:
    """The first hours of eight real machines, or all."""
    batch = read_history([file], Contract.load(), Mapping.parse(CONSTANTS))
    return batch if hours is None else batch.take(batch.time < batch.time[0] + hours * 3_600_000)


def as_rows(forecasts: list[Subscribed], contract: Contract) -> pd.DataFrame:
    """The stream's forecasts in the form of the offline file."""
    rows = []
    for forecast in (f.value for f in forecasts):
        for target in forecast["targets"]:
            frame = pd.DataFrame({f"q{q['level']:g}": q["values"] for q in target["quantiles"]}, dtype=np.float32)
            frame["step"] = np.arange(1, contract.settings.horizon_steps + 1, dtype=np.int32)
            rows.append(
                frame.assign(server_id=forecast["server_id"], issued_at=forecast["issued_at"], target=target["name"])
            )
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("source", ["simulated", "smd"])
def test_stream_equals_offline(
    source: str, request: pytest.FixtureRequest, make_stream: Callable[[], Stream], shipped_model: Model, tmp_path: Path
) -> None:
    """Every row in, every step accounted for, every forecast equal to the offline one; the rest are open steps."""
    batch = simulated() if source == "simulated" else smd(request.getfixturevalue("smd_servers"))
    stream = make_stream()

    stream.publish(batch)
    service = stream.consume(shipped_model)
    forecasts = stream.read(stream.topics.forecasts)
    offline = forecast_file(shipped_model, batch, tmp_path / "offline.parquet")

    counts = service.core.counts
    assert (counts.held_steps > 0) == (source == "simulated"), "the silent server's gap was held"
    assert (counts.events, counts.refused, counts.withheld) == (len(batch), {}, 0)
    steps = stream.read(stream.topics.steps)
    check_steps(steps, batch, stream.contract)
    expected = pd.read_parquet(tmp_path / "offline.parquet")
    got = as_rows(forecasts, stream.contract)
    keys = ["server_id", "issued_at", "target", "step"]
    for frame in (expected, got):
        frame["server_id"], frame["target"] = frame["server_id"].astype(str), frame["target"].astype(str)
        frame["issued_at"] = pd.to_datetime(frame["issued_at"], utc=True).astype("datetime64[ms, UTC]")
    both = expected.merge(got, on=keys, how="outer", indicator=True, suffixes=("_offline", "_stream"))
    assert (both["_merge"] == "right_only").sum() == 0, "the stream issued nothing that offline does not"
    assert len(forecasts) == counts.forecasts > 50
    for level in stream.contract.settings.quantiles:
        a, b = both[f"q{level:g}_offline"], both[f"q{level:g}_stream"]
        matched = both["_merge"] == "both"
        assert (np.abs(a - b)[matched] <= 1e-4 * (1 + np.abs(b[matched]))).all()
    check_only_offline(both[both["_merge"] == "left_only"], batch, offline.forecasts - len(forecasts), stream.contract)


def check_steps(steps: list[Subscribed], batch: EventBatch, contract: Contract) -> None:
    """Observed counts per server and step are those of the rows; what is missing is still open."""
    rows = pd.DataFrame({"server": batch.keys, "step": batch.time // contract.step_ms})
    expected = rows.groupby(["server", "step"]).size()
    observed = {
        (s.key, int(s.value["step_start"].timestamp() * 1000) // contract.step_ms): s.value["count"]
        for s in steps if not s.value["held"]
    }  # fmt: skip
    assert len(observed) == sum(not s.value["held"] for s in steps), "no step is published twice"
    missing = expected.drop(list(observed))
    assert {k: expected[k] for k in observed} == observed
    last = rows.groupby("server").step.max()
    assert all(step >= last[server] - 1 for server, step in missing.index), "only the last steps are open"


def check_only_offline(rows: pd.DataFrame, batch: EventBatch, count: int, contract: Contract) -> None:
    """Forecasts that only offline has end at steps that a partition has not closed yet."""
    issues = rows[["server_id", "issued_at"]].drop_duplicates()
    assert len(issues) == count <= 2 * len(set(batch.keys)) + PARTITIONS
    end_ms = int(batch.time.max())
    open_since = pd.Timestamp(end_ms - 2 * contract.step_ms, unit="ms", tz="UTC")
    assert (issues["issued_at"] >= open_since).all()


def test_first_forecast_step_is_the_first_unobserved(make_stream: Callable[[], Stream], shipped_model: Model) -> None:
    """A forecast is issued at the end of the last closed step, and its source is the event that closed it."""
    batch = simulated()
    stream = make_stream()
    stream.publish(batch)
    stream.consume(shipped_model)

    settings = stream.contract.settings
    ends = {(s.key, s.value["step_start"] + dt.timedelta(seconds=300)) for s in stream.read(stream.topics.steps)}
    events = {(e.partition, e.offset): e.value for e in stream.read(stream.topics.metrics)}
    forecasts = [f.value for f in stream.read(stream.topics.forecasts)]
    assert len(forecasts) > 50
    for forecast in forecasts:
        assert (forecast["server_id"], forecast["issued_at"]) in ends
        closer = events[forecast["source"]["partition"], forecast["source"]["offset"]]
        assert closer["timestamp"] - dt.timedelta(seconds=settings.allowed_lateness_seconds) >= forecast["issued_at"]
        lengths = {len(q["values"]) for t in forecast["targets"] for q in t["quantiles"]}
        assert lengths == {settings.horizon_steps}
