import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from models.artifact import Model
from models.offline import ForecastFileResult, forecast_file
from models.samples import History
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.errors import InputError
from tests import contracts
from tests.models.affine import START_STEP, affine_model, series
from tests.models.conftest import events

ONE = Contract(contracts.schema(quantiles=[0.1, 0.5, 0.9]))
RICH = contracts.rich(encoder_steps=12, min_encoder_steps=4, horizon_steps=5, max_gap_steps=1)
EQUAL: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}  # the design's; a window's place in its block shows in last bits
MakeModel = Callable[[Contract, History], Model]


def issue(k: int) -> int:
    """End of the ``k``-th step of ``series`` in ms."""
    return (START_STEP + k + 1) * ONE.step_ms


def write(model: Model, batch: EventBatch, folder: Path, **options: Any) -> tuple[ForecastFileResult, pd.DataFrame]:
    result = forecast_file(model, batch, folder / "forecasts.parquet", **options)
    frame = pd.read_parquet(folder / "forecasts.parquet")
    assert len(frame) == result.rows
    return result, frame


@pytest.mark.parametrize("contract", [ONE, RICH], ids=["one target", "every role"])
def test_the_file_holds_the_runtimes_forecasts_row_by_row(
    contract: Contract, make_model: MakeModel, tmp_path: Path
) -> None:
    """Each server, issue time, target and step has the numbers that the runtime gives for the training windows."""
    batch = events(contract, servers=5, steps=90)
    history = History(contract, batch)
    model = make_model(contract, history)
    result, frame = write(model, batch, tmp_path, group_rows=1_000)

    samples, settings = history.samples, contract.settings
    names = [f"q{level:g}" for level in settings.quantiles]
    forecast = model.runtime().forecast(history.windows(samples))
    expected = forecast.values  # noqa: PD011  (no pandas: [B, T, Q, H])
    window, target, step = np.indices((len(samples), len(contract.targets), settings.horizon_steps)).reshape(3, -1)
    wanted = pd.DataFrame(expected[window, target, :, step], columns=names)
    wanted.insert(0, "server_id", np.array(history.keys)[samples.slot[window]])
    wanted.insert(1, "issued_at", pd.to_datetime((samples.step[window] + 1) * contract.step_ms, unit="ms", utc=True))
    wanted.insert(2, "target", np.array([f.name for f in contract.targets])[target])
    wanted.insert(3, "step", step + 1)
    by = ["server_id", "issued_at", "target", "step"]
    assert result.forecasts == len(samples) > 200
    pd.testing.assert_frame_equal(
        frame.sort_values(by, ignore_index=True),
        wanted.sort_values(by, ignore_index=True),
        check_dtype=False,
        **EQUAL,
    )


def test_the_columns_are_those_of_the_design(tmp_path: Path) -> None:
    """Names and types are fixed; values are float32, a column a quantile."""
    write(affine_model(ONE, tmp_path), series(ONE, a=range(9)), tmp_path)
    schema = pq.read_schema(tmp_path / "forecasts.parquet")

    assert [(f.name, f.type) for f in schema] == [
        ("server_id", pa.string()),
        ("issued_at", pa.timestamp("ms", tz="UTC")),
        ("target", pa.string()),
        ("step", pa.int32()),
        ("q0.1", pa.float32()),
        ("q0.5", pa.float32()),
        ("q0.9", pa.float32()),
    ]


def test_the_first_step_is_the_first_unobserved_one(tmp_path: Path) -> None:
    """Issued at the end of the last closed step, which persistence repeats from step 1 on; open steps stay open."""
    _, frame = write(affine_model(ONE, tmp_path), series(ONE, a=range(9)), tmp_path)

    issued = frame.issued_at.astype("datetime64[ms, UTC]").astype("int64")
    assert sorted(set(issued)) == [issue(k) for k in range(2, 8)], "min_encoder_steps 3; step 8 is still open"
    assert (issued == (START_STEP + frame["q0.5"].astype("int64") + 1) * ONE.step_ms).all()
    assert frame.groupby("issued_at").step.apply(list).tolist() == [[1, 2, 3, 4]] * 6


def test_what_comes_after_the_issue_time_does_not_show(make_model: MakeModel, tmp_path: Path) -> None:
    """Forecasts are the same whatever was observed later."""
    batch = events(ONE, servers=4, steps=60)
    model = make_model(ONE, History(ONE, batch))
    cut = (int(batch.time[0]) // ONE.step_ms + 40) * ONE.step_ms
    other = batch.take(slice(None))
    other.reals[batch.time >= cut] = 77
    _, before = write(model, batch, tmp_path, until=cut)
    _, after = write(model, other, tmp_path, until=cut)

    assert len(before)
    pd.testing.assert_frame_equal(before, after, check_exact=True)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"issued_at": issue(5)}, [5]),
        ({"since": issue(5)}, [5, 6, 7, 8]),
        ({"since": issue(5) - 1}, [5, 6, 7, 8]),
        ({"until": issue(4)}, [2, 3, 4]),
        ({"since": issue(3), "until": issue(6)}, [3, 4, 5, 6]),
        ({"every": 3}, [2, 5, 8]),
        ({"every": 3, "since": issue(4)}, [5, 8]),
        ({"issued_at": issue(5), "until": issue(4)}, []),
    ],
)
def test_issue_times_are_selected(options: dict[str, int], wanted: list[int], tmp_path: Path) -> None:
    """issued_at is exact, since and until are inclusive, every takes multiples of so many steps since the epoch."""
    result, frame = write(affine_model(ONE, tmp_path), series(ONE, a=range(10), b=range(10)), tmp_path, **options)

    issued = frame.issued_at.astype("datetime64[ms, UTC]").astype("int64")
    assert sorted(set(issued)) == [issue(k) for k in wanted]
    assert result.forecasts == 2 * len(wanted)
    assert result.due == 14, "the selection does not change what was due"


def test_row_groups_are_bounded(make_model: MakeModel, tmp_path: Path) -> None:
    """The file is written in row groups of whole runtime blocks, none larger than asked for, and none is lost."""
    batch = events(RICH, servers=6, steps=100)
    model = make_model(RICH, History(RICH, batch))
    _, whole = write(model, batch, tmp_path)
    _, parts = write(model, batch, tmp_path, group_rows=500)

    metadata = pq.read_metadata(tmp_path / "forecasts.parquet")
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert len(sizes) > 4
    assert set(sizes[:-1]) == {2 * 5 * 48}, "targets x horizon x three blocks of 16 windows"
    pd.testing.assert_frame_equal(parts, whole, **EQUAL)


def test_quantiles_ascend_and_keep_the_bounds(make_model: MakeModel, tmp_path: Path) -> None:
    """No quantile crosses another, and none leaves the target's minimum and maximum."""
    field = contracts.field("share", "double", "target", minimum=0, maximum=100)
    contract = Contract(contracts.schema(field, encoder_steps=12, min_encoder_steps=4))
    batch = events(contract, servers=5, steps=80)
    _, frame = write(make_model(contract, History(contract, batch)), batch, tmp_path)

    values = frame[[f"q{level:g}" for level in contract.settings.quantiles]].to_numpy()
    assert (np.diff(values, axis=1) >= 0).all()
    assert values.min() == 0, "the bound was reached"
    assert values.max() <= 100


def test_only_due_windows_are_forecast(tmp_path: Path) -> None:
    """forecast_every_steps holds as it does in the service, and refused events are counted by stage."""
    contract = Contract(contracts.schema(quantiles=[0.1, 0.5, 0.9], forecast_every_steps=2))
    batch = series(contract, a=[*range(9), float("nan")])
    late = series(contract, a=[1])
    result, frame = write(affine_model(contract, tmp_path), EventBatch.concat([batch, late]), tmp_path)

    assert result.refused == {"validate": 1, "late": 1}
    assert sorted(set(frame["q0.5"])) == [2, 4, 6]
    assert (result.steps, result.due, result.forecasts) == (8, 3, 3)


def test_forecasts_that_are_not_finite_are_withheld(tmp_path: Path) -> None:
    """A server whose output overflows is left out and counted; the others are written."""
    model = affine_model(ONE, tmp_path, [0, 0, 3e38])  # times 1 + mean difference: only the moving server overflows
    result, frame = write(model, series(ONE, calm=[5] * 10, moving=range(10)), tmp_path)

    assert set(frame.server_id) == {"calm"}
    assert (result.forecasts, result.withheld) == (7, 7)


@pytest.mark.parametrize(
    ("values", "options", "steps", "reason"),
    [
        ([], {}, 0, "no step of 10 s ever closes"),
        ([1], {}, 0, "no step of 10 s ever closes"),
        ([1, 2, 3], {}, 2, "no window was due: the longest has 2 steps, a forecast needs 3"),
        ([*range(9)], {"since": issue(50)}, 8, "6 windows were due, issued 2023-"),
        ([*range(9)], {"issued_at": issue(5) + 1}, 8, "is not the end of a step of 10 s"),
    ],
)
def test_without_a_forecast_the_file_is_empty_and_says_why(
    values: list[float], options: dict[str, int], steps: int, reason: str, tmp_path: Path
) -> None:
    """A valid file without rows, and a warning with the number of steps and the reason."""
    batch = series(ONE, a=values) if values else EventBatch.empty(ONE)
    with capture_logs() as logs:
        result, frame = write(affine_model(ONE, tmp_path), batch, tmp_path, **options)

    assert (result.rows, len(frame)) == (0, 0)
    assert list(frame.columns) == ["server_id", "issued_at", "target", "step", "q0.1", "q0.5", "q0.9"]
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["steps"] == steps
    assert reason in warning["reason"]


@contextmanager
def small_disk(limit_bytes: int) -> Iterator[None]:
    """The operating system refuses to write more than that into a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_leaves_what_was_there(make_model: MakeModel, tmp_path: Path) -> None:
    """Where writing fails half way, the file of before stays, nothing else is left, and the error says why."""
    batch = events(RICH, servers=6, steps=100)
    model = make_model(RICH, History(RICH, batch))
    folder = tmp_path / "out"
    folder.mkdir()
    output = folder / "forecasts.parquet"
    output.write_text("as before")
    with small_disk(30_000), pytest.raises(InputError, match=r"cannot write .*forecasts.parquet: File too large"):
        forecast_file(model, batch, output, group_rows=500)

    assert output.read_text() == "as before"
    assert [file.name for file in folder.iterdir()] == ["forecasts.parquet"]
    assert forecast_file(model, batch, output, group_rows=500).rows
    assert output.stat().st_size > 30_000


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("missing/f.parquet", {}, "cannot write .*missing/f.parquet: No such file"),
        (".", {}, "is a folder"),
        ("f.parquet", {"every": 0}, "every: 0"),
        ("f.parquet", {"since": issue(5), "until": issue(4)}, "since 2023-.* lies after until 2023-"),
    ],
)
def test_wrong_usage_is_said(output: str, options: dict[str, int], message: str, tmp_path: Path) -> None:
    """A path that cannot be written and a selection that makes no sense are errors, and no file appears."""
    model = affine_model(ONE, tmp_path / "model")
    with pytest.raises(InputError, match=message):
        forecast_file(model, series(ONE, a=range(9)), tmp_path / output, **options)

    assert not list(tmp_path.glob("*.parquet"))
