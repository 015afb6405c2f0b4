import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer import generate as module
from producer.fleet import Fleet
from producer.generate import generate
from schemas.contract import Contract
from schemas.errors import FleetcastError, InputError
from schemas.history import read_history
from tests.contracts import enum, field, rich, schema

SHIPPED = Contract.load()
MONDAY_MS = 1_767_571_200_000
EVERY_TYPE = Contract(
    schema(
        field("a", "float", "target"),
        field("b", ["null", "int"], "target", minimum=0, maximum=9),
        field("c", "long", "covariate"),
        field("latency_ms", ["null", "double"], "covariate"),
        field("state", enum("State", "up", "down"), "category"),
        field("mood", ["null", enum("Mood", "good", "bad")], "context"),
        field("note", ["null", "string"], "context"),
        field("spare", "boolean", "context"),
    )
)


def make(folder, contract=SHIPPED, **options):
    defaults = {"servers": 7, "hours": 30, "start_ms": MONDAY_MS, "seed": 3}
    return generate(folder, contract, **{**defaults, **options})


@pytest.mark.parametrize("contract", [SHIPPED, rich(), EVERY_TYPE], ids=["shipped", "rich", "every type"])
def test_what_is_written_is_what_is_read(tmp_path, contract):
    """generate, then read_history, gives the fleet's own arrays."""
    done = make(tmp_path, contract)
    read, made = read_history([tmp_path], contract), Fleet(contract, 7, 3).metrics(MONDAY_MS, 60, 1800)

    assert done.rows == len(read) == 7 * 1800
    assert read.keys.tolist() == made.keys.tolist()
    assert read.time.tolist() == made.time.tolist()
    assert np.array_equal(read.reals, made.reals, equal_nan=True)
    assert np.array_equal(read.enums, made.enums)
    assert read.labels.tolist() == made.labels.tolist()


def test_row_groups_do_not_show(tmp_path, monkeypatch):
    """A history written in many parts is the one written in few."""
    make(tmp_path / "few")
    monkeypatch.setattr(module, "_ROW_GROUP", 1000)
    make(tmp_path / "many")

    assert pq.ParquetFile(tmp_path / "many/metrics.parquet").num_row_groups > 10
    assert pq.read_table(tmp_path / "few/metrics.parquet").equals(pq.read_table(tmp_path / "many/metrics.parquet"))


def test_the_columns_are_the_contracts(tmp_path):
    """metrics.parquet has the contract's columns in order, with UTC times, text enums and doubles."""
    make(tmp_path)
    types = pq.read_schema(tmp_path / "metrics.parquet")

    assert types.names == [f.name for f in SHIPPED.fields]
    assert types.field("timestamp").type == pa.timestamp("ms", tz="UTC")
    assert types.field("cpu_percent").type == pa.float64()
    assert pd.read_parquet(tmp_path / "metrics.parquet")["status"].isin(SHIPPED.categories[0].symbols).all()


def test_the_incidents_are_labels_with_times(tmp_path):
    """incidents.parquet has five columns with UTC times, and one row for each incident of the fleet."""
    done = make(tmp_path, servers=50, scenario="critical")
    labels = pd.read_parquet(tmp_path / "incidents.parquet")

    assert list(labels.columns) == ["server_id", "kind", "lead_in_start", "breach_start", "end"]
    assert str(labels["end"].dtype.tz) == "UTC"
    assert len(labels) == done.incident_count > 10


def test_a_healthy_fleet_has_an_empty_list_of_incidents(tmp_path):
    """Where nothing goes wrong the file is there, with its types and no rows."""
    make(tmp_path, scenario="healthy")

    assert pq.read_table(tmp_path / "incidents.parquet").num_rows == 0
    assert pq.read_schema(tmp_path / "incidents.parquet").field("end").type == pa.timestamp("ms", tz="UTC")


def test_hours_and_interval_say_how_many_rows(tmp_path):
    """An hour at 90 s from an odd start holds the ticks in [start, start + 1 h), multiples of 90 s."""
    done = make(tmp_path, hours=1, interval_s=90, start_ms=MONDAY_MS + 1000, servers=2)
    times = np.unique(read_history([tmp_path], SHIPPED).time)

    assert times[0] == MONDAY_MS + 90_000
    assert times[-1] == MONDAY_MS + 3_600_000
    assert (np.diff(times) == 90_000).all()
    assert done.rows == len(times) * 2 == 80


def test_a_run_that_dies_leaves_what_was_there(tmp_path, monkeypatch):
    """Dying while writing leaves the earlier files whole and no half file of either name."""
    make(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("metrics.parquet", "incidents.parquet")}

    def dies(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.pq, "write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, seed=4)

    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    """A file in the folder's place is an error that names it."""
    (tmp_path / "file").write_text("")

    with pytest.raises(FleetcastError, match=r"cannot write .*file"):
        make(tmp_path / "file")


@pytest.mark.parametrize("options", [{"hours": 0}, {"hours": -1}, {"interval_s": 0}, {"hours": 0.01}])
def test_a_history_without_a_row_is_refused(tmp_path, options):
    """Hours that hold no sample are wrong usage."""
    with pytest.raises(InputError, match="hours"):
        make(tmp_path, **options)
