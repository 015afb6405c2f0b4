import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas.history
from schemas.contract import Contract
from schemas.errors import DataError, MappingError
from schemas.history import read_history
from schemas.mapping import Mapping
from tests.contracts import enum, field, schema

CONTRACT = Contract(
    schema(
        field("cpu", "double", "target"),
        field("queue", ["null", "int"], "target"),
        field("state", enum("State", "up", "down"), "category"),
        field("mood", ["null", enum("Mood", "good", "bad")], "context"),
        field("note", ["null", "string"], "context"),
        field("flag", ["null", "boolean"], "context"),
    )
)
T0 = 1_767_571_200_000  # 2026-01-05


def frame(n=3, **columns) -> pd.DataFrame:
    base = {
        "host": [f"h{i}" for i in range(n)],
        "at": pd.to_datetime(T0 + np.arange(n) * 1000, unit="ms", utc=True),
        "cpu": np.arange(n, dtype=float),
        "state": ["up"] * n,
    }
    return pd.DataFrame({**base, **columns})


def write(path, data):
    table = data if isinstance(data, pa.Table) else pa.Table.from_pandas(data)
    pq.write_table(table, path)
    return path


def read(tmp_path, data, mapping=None):
    return read_history([write(tmp_path / "x.parquet", data)], CONTRACT, mapping)


def test_all_columns_arrive(tmp_path):
    """Numbers, symbols, texts and truths become the batch's columns; null is NaN, -1 or None."""
    batch = read(
        tmp_path,
        frame(
            state=["down", "up", "up"],
            queue=pd.array([1, None, 3], "Int64"),
            mood=["bad", None, "good"],
            note=["x", None, "y"],
            flag=[True, None, False],
        ),
    )

    assert batch.keys.tolist() == ["h0", "h1", "h2"]
    assert batch.time.tolist() == [T0, T0 + 1000, T0 + 2000]
    assert np.array_equal(batch.reals, [[0, 1], [1, np.nan], [2, 3]], equal_nan=True)
    assert batch.enums.tolist() == [[1, 1], [0, -1], [0, 0]]
    assert batch.labels.tolist() == [["x", True], [None, None], ["y", False]]


def test_missing_nullable_columns_are_null(tmp_path):
    """A file without the nullable columns is good."""
    batch = read(tmp_path, frame())

    assert np.isnan(batch.reals[:, 1]).all()
    assert batch.enums[:, 1].tolist() == [-1] * 3
    assert batch.labels.tolist() == [[None, None]] * 3


@pytest.mark.parametrize(
    "times",
    [
        pa.array([T0 // 1000, T0 // 1000 + 1], pa.timestamp("s")),
        pa.array([T0, T0 + 1000], pa.timestamp("ms", tz="UTC")),
        pa.array([T0 * 1000, (T0 + 1000) * 1000], pa.timestamp("us", tz="America/New_York")),
        pa.array([T0 * 1_000_000, (T0 + 1000) * 1_000_000 + 999_999], pa.timestamp("ns")),
        pa.array(["2026-01-05T00:00:00", "2026-01-05 00:00:01"]),
        pa.array(["2026-01-05T02:00:00+02:00", "2026-01-05T00:00:01.000Z"]),
        pa.array(["2026-01-05", "20260105T000001Z"]).dictionary_encode(),
    ],
    ids=["s", "ms", "us in New York", "ns", "naive text", "text with offsets", "dictionary of text"],
)
def test_times_of_any_kind(tmp_path, times):
    """Timestamps of any unit and zone, and ISO text, are ms since the epoch; naive means UTC."""
    table = pa.table({"host": ["a", "b"], "at": times, "cpu": [1.0, 2.0], "state": ["up", "up"]})

    assert read(tmp_path, table).time.tolist() == [T0, T0 + 1000]


def test_dates_are_midnight(tmp_path):
    """A date column is midnight UTC."""
    table = pa.table({"host": ["a"], "at": pa.array([20458], pa.date32()), "cpu": [1.0], "state": ["up"]})

    assert read(tmp_path, table).time.tolist() == [T0]


def test_numbers_of_any_kind(tmp_path):
    """Integers, float32, decimals and dictionaries of numbers are numbers."""
    for values in (
        pa.array([1, 2], pa.uint8()),
        pa.array([1, 2], pa.float32()),
        pa.array(["1", "2"]).cast(pa.decimal128(5, 2)),
        pa.array([1.0, 2.0]).dictionary_encode(),
    ):
        table = pa.table({"host": ["a", "b"], "at": ["2026-01-05"] * 2, "cpu": values, "state": ["up", "up"]})

        assert read(tmp_path, table).reals[:, 0].tolist() == [1, 2]


def test_whole_numbers_are_keys(tmp_path):
    """A fleet whose servers are numbered is keyed by the number's text."""
    assert read(tmp_path, frame(host=[3, 1, 2])).keys.tolist() == ["3", "1", "2"]


def test_a_stored_index_is_a_column(tmp_path):
    """A frame that was indexed by time when it was written reads as if it were not."""
    assert read(tmp_path, frame().set_index("at")).time.tolist() == [T0, T0 + 1000, T0 + 2000]


def test_nan_stays(tmp_path):
    """NaN and infinity in a required real are for the stream's validation, not lost here."""
    values = read(tmp_path, frame(cpu=[np.nan, np.inf, 1.0])).reals[:, 0]

    assert np.array_equal(values, [np.nan, np.inf, 1.0], equal_nan=True)


def test_an_empty_file_has_no_events(tmp_path):
    """No rows is a history too."""
    assert len(read(tmp_path, frame().iloc[:0])) == 0


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=4))
def test_files_are_merged_by_time_and_stably(tmp_path_factory, parts):
    """Several files are one history in time order; rows of one time keep the files' order, then their own."""
    folder, said = tmp_path_factory.mktemp("parts"), []
    for i, seconds in enumerate(parts):
        names = [f"{i}.{j}" for j in range(len(seconds))]
        said += list(zip(seconds, names, strict=True))
        at = pd.to_datetime(T0 + np.array(seconds, np.int64) * 1000, unit="ms", utc=True)
        write(folder / f"{i}.parquet", frame(len(seconds), host=names, at=at))

    batch = read_history([folder], CONTRACT)

    assert batch.keys.tolist() == [name for _, name in sorted(said, key=lambda row: row[0])]
    assert batch.reals.shape == (len(said), 2)


def test_a_folder_stands_for_its_metrics(tmp_path):
    """metrics.parquet if there is one, else every parquet file but the incidents."""
    write(tmp_path / "a.parquet", frame(1))
    write(tmp_path / "b.parquet", frame(2))
    write(tmp_path / "incidents.parquet", frame(4))
    assert len(read_history([tmp_path], CONTRACT)) == 3

    write(tmp_path / "metrics.parquet", frame(8))
    assert len(read_history([tmp_path], CONTRACT)) == 8
    assert len(read_history([tmp_path, tmp_path / "a.parquet"], CONTRACT)) == 9


def test_a_mapping_is_applied(tmp_path):
    """Other names, other scales and other symbols become the contract's."""
    mapping = Mapping.parse(
        """[columns]
        host = "server"
        at = { column = "ts", unit = "s" }
        cpu = { column = "frac", scale = 100 }
        state = { column = "st", map = { ok = "up" }, default = "down" }
        mood = { constant = "good" }"""
    )
    data = pd.DataFrame({"server": ["a", "b"], "ts": [T0 // 1000, T0 // 1000], "frac": [0.5, 1], "st": ["ok", None]})
    batch = read(tmp_path, data, mapping)

    assert batch.keys.tolist() == ["a", "b"]
    assert batch.time.tolist() == [T0, T0]
    assert batch.reals[:, 0].tolist() == [50, 100]
    assert batch.enums.tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"state": ["up", "dwon", "up"]}, r"column 'state', row 1: 'dwon' is no symbol \(up, down\)"),
        ({"state": ["up", None, "up"]}, r"column 'state', row 1: (nan|None) where null is not allowed"),
        ({"state": [0, 1, 0]}, r"column 'state', row 0: 0 is no symbol"),
        ({"host": ["a", "b", None]}, r"column 'host', row 2: (nan|None) where null is not allowed"),
        ({"host": [0.5, 1, 2]}, r"column 'host', row 0: .*0.5.* is not text"),
        ({"cpu": ["1.5", "2", "x"]}, r"column 'cpu', row 0: '1.5' is not a number"),
        ({"cpu": [True, False, True]}, r"column 'cpu', row 0: .*True.* is not a number"),
        ({"cpu": [[1], [2], [3]]}, r"column 'cpu'.*is not a number"),
        ({"queue": [1, 2, 3e10]}, r"column 'queue', row 2: 30000000000.0 cannot be an Avro int"),
        ({"queue": [1, np.inf, 3]}, r"column 'queue', row 1: inf cannot be an Avro int"),
        ({"note": [1, 2, 3]}, r"column 'note', row 0: .*1.* is not text"),
        ({"flag": ["yes", "no", "no"]}, r"column 'flag', row 0: 'yes' is neither true nor false"),
        ({"mood": ["good", "great", None]}, r"column 'mood', row 1: 'great' is no symbol"),
        ({"at": [1, 2, 3]}, r"column 'at', row 0: .*1.* is a number: name its unit in a mapping"),
        ({"at": ["2026-01-05", "yesterday", "2026-01-06"]}, r"column 'at', row 1: 'yesterday' is no time"),
        ({"at": ["2026-01-05", "2026-02-30", "2026-01-06"]}, r"column 'at', row 1: '2026-02-30' is no time"),
        ({"at": ["2026-01-05", None, "2026-01-06"]}, r"column 'at', row 1: .* is no time"),
        ({"at": ["1767571200", "2", "3"]}, r"column 'at', row 0: '1767571200' is no time"),
        ({"at": [True, False, True]}, r"column 'at'"),
        ({"at": [None, None, None]}, r"column 'at', row 0: None is no time"),
    ],
)
def test_values_that_do_not_fit_are_named(tmp_path, columns, says):
    """An error names the file, the column, the row and the value."""
    with pytest.raises(DataError, match=says) as error:
        read(tmp_path, frame(**columns))

    assert str(tmp_path / "x.parquet") in str(error.value)


def test_a_required_whole_number_cannot_be_missing(tmp_path):
    """Avro's long has no NaN: what could not be published is refused with its row."""
    contract = Contract(schema(field("requests", "long", "target")))
    data = frame().assign(requests=pd.array([1, None, 3], "Int64"))
    with pytest.raises(DataError, match=r"column 'requests', row 1: nan cannot be an Avro long"):
        read_history([write(tmp_path / "x.parquet", data)], contract)


def test_a_required_column_that_is_missing_is_named(tmp_path):
    """Without a column that the contract requires, a file is of no use."""
    with pytest.raises(DataError, match=r"x.parquet: column 'cpu' is missing"):
        read(tmp_path, frame().drop(columns="cpu"))


def test_a_mapped_column_that_is_missing_is_named(tmp_path):
    """The mapping asks for a column that the file lacks: the file's columns are told, used or not."""
    with pytest.raises(MappingError, match=r"columns.cpu: .*x.parquet has no column 'load1'.*other"):
        read(tmp_path, frame(other=1), Mapping.parse('[columns]\ncpu = "load1"'))


def test_what_is_no_parquet_is_named(tmp_path):
    """A file of another format, an empty one, a cut one and a missing one are named."""
    whole = write(tmp_path / "whole.parquet", frame(1000)).read_bytes()
    for name, content in {"csv": b"host,at\n", "empty": b"", "cut": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name} cannot be read as parquet"):
            read_history([tmp_path / name], CONTRACT)
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_history([tmp_path / "nowhere"], CONTRACT)


def test_a_folder_without_parquet_is_named(tmp_path):
    """An empty folder is not an empty history."""
    with pytest.raises(DataError, match="holds no parquet file"):
        read_history([tmp_path], CONTRACT)
    with pytest.raises(DataError, match="no file"):
        read_history([], CONTRACT)


def test_rows_are_counted_through_the_whole_file(tmp_path, monkeypatch):
    """A file is read in parts, which do not show: neither in the events nor in the row that an error names."""
    monkeypatch.setattr(schemas.history, "_ROWS_AT_ONCE", 2)
    note = ["a", None, None, None, "b", None, "c"]

    assert read(tmp_path, frame(7, note=note)).labels[:, 0].tolist() == note
    with pytest.raises(DataError, match=r"column 'cpu', row 4: 'x' is not"):
        read(tmp_path, frame(7, cpu=[None] * 4 + ["x"] * 3))
    with pytest.raises(DataError, match=r"column 'state', row 5: 'dwon' is no symbol"):
        read(tmp_path, frame(7, state=["up"] * 5 + ["dwon", "up"]))
    with pytest.raises(MappingError, match=r"column 'state', row 6: 'down' is not in the map"):
        read(
            tmp_path,
            frame(7, state=["up"] * 6 + ["down"]),
            Mapping.parse('[columns]\nstate = { column = "state", map = { up = "up" } }'),
        )


def test_a_large_file_is_read_in_seconds(tmp_path):
    """Half a million rows of texts, symbols and numbers take no Python loop over rows."""
    n = 500_000
    write(tmp_path / "x.parquet", frame(n, host=np.array([f"h{i}" for i in range(100)])[np.arange(n) % 100]))
    begin = time.perf_counter()

    assert len(read_history([tmp_path], CONTRACT)) == n
    assert time.perf_counter() - begin < 5
