import pandas as pd
import pytest
from structlog.testing import capture_logs

import schemas.mapping
from schemas.contract import Contract
from schemas.errors import DataError, InputError, MappingError
from schemas.mapping import Mapping
from tests.contracts import enum, field, rich, schema

CONTRACT = Contract(
    schema(
        field("cpu", "double", "target"),
        field("spare", ["null", "double"], "context"),
        field("state", enum("State", "healthy", "offline"), "category"),
        field("note", ["null", "string"], "context"),
        field("flag", ["null", "boolean"], "context"),
    )
)
FRAME = pd.DataFrame(
    {
        "host": ["a", "b"],
        "at": pd.to_datetime(["2026-01-05", "2026-01-06"], utc=True),
        "cpu": [1.0, 2.0],
        "state": ["healthy", "offline"],
    }
)


def apply(toml: str, frame: pd.DataFrame = FRAME, contract: Contract = CONTRACT) -> pd.DataFrame:
    return Mapping.parse(f"[columns]\n{toml}", "m.toml").apply(frame, contract, "file.parquet")


def test_without_a_mapping_names_are_kept():
    """Identity gives exactly the contract's columns in its order; a nullable one that is missing is null."""
    out = Mapping.identity().apply(FRAME, CONTRACT, "file.parquet")

    assert list(out.columns) == [f.name for f in CONTRACT.fields]
    assert out["cpu"].tolist() == [1.0, 2.0]
    assert out["spare"].isna().all()


def test_a_column_is_renamed():
    """A string names the file's column."""
    assert apply('cpu = "load1"', FRAME.assign(load1=[7, 8]))["cpu"].tolist() == [7, 8]


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_numbers_become_times_by_their_unit(unit, factor):
    """Whole and broken numbers since the epoch, in s, ms or us, are UTC times to the millisecond."""
    whole, broken = [1_767_571_200 * factor, 1_767_571_261 * factor], [1_767_571_200.25 * factor, float("nan")]
    rule = f'at = {{ column = "ts", unit = "{unit}" }}'

    assert apply(rule, FRAME.assign(ts=whole))["at"].tolist() == [
        pd.Timestamp("2026-01-05T00:00:00Z"),
        pd.Timestamp("2026-01-05T00:01:01Z"),
    ]
    got = apply(rule, FRAME.assign(ts=broken))["at"]
    assert got[0] == pd.Timestamp("2026-01-05T00:00:00.25Z")
    assert got.isna().tolist() == [False, True]


def test_a_unit_does_not_matter_to_real_timestamps():
    """Parquet timestamps and ISO text need no unit, and take no harm from one."""
    assert apply('at = { column = "at", unit = "s" }')["at"].tolist() == FRAME["at"].tolist()


def test_numbers_are_scaled():
    """The value times scale plus offset, each with its default."""
    frame = FRAME.assign(frac=[0.25, None])

    assert apply('cpu = { column = "frac", scale = 100, offset = 5 }', frame)["cpu"][0] == 30
    assert apply('cpu = { column = "frac", offset = -1.5 }', frame)["cpu"][0] == -1.25
    assert apply('cpu = { column = "frac", scale = 2 }', frame)["cpu"].isna()[1]


def test_symbols_are_mapped():
    """Values go through the map; the rest, null included, gets the default."""
    rule = 'state = { column = "st", map = { ok = "healthy", down = "offline" }, default = "offline" }'

    assert apply(rule, FRAME.assign(st=["ok", "strange"]))["state"].tolist() == ["healthy", "offline"]
    assert apply(rule, FRAME.assign(st=[None, "ok"]))["state"].tolist() == ["offline", "healthy"]
    assert apply(rule, FRAME.assign(st=pd.Categorical(["ok", "down"])))["state"].tolist() == ["healthy", "offline"]


@pytest.mark.parametrize("values", [[1, 0], [1.0, 0.0], [True, False]])
def test_numbers_and_truths_are_mapped_by_their_text(values):
    """TOML's keys are text: 1, 1.0 and true are written 1, 1 and true."""
    rule = 'state = { column = "up", map = { 1 = "healthy", 0 = "offline", true = "healthy", false = "offline" } }'

    assert apply(rule, FRAME.assign(up=values))["state"].tolist() == ["healthy", "offline"]


def test_constants():
    """A constant stands in every row: symbol, key, number, truth."""
    out = apply(
        'state = { constant = "offline" }\nhost = { constant = "h" }\n'
        "cpu = { constant = 3 }\nflag = { constant = true }"
    )

    assert out["state"].tolist() == ["offline", "offline"]
    assert out["host"].tolist() == ["h", "h"]
    assert out["cpu"].tolist() == [3, 3]
    assert out["flag"].tolist() == [True, True]


def test_what_the_contract_lacks_is_dropped_and_said():
    """Columns that are not used are logged with the file's name, one that another replaced among them."""
    with capture_logs() as logs:
        apply('cpu = "load1"', FRAME.assign(load1=1.0, other=2, more="x"))

    assert [(line["file"], line["columns"]) for line in logs] == [("file.parquet", ["cpu", "more", "other"])]


def test_nothing_is_said_where_nothing_is_dropped():
    """A file that fits causes no log line."""
    with capture_logs() as logs:
        Mapping.identity().apply(FRAME, CONTRACT, "file.parquet")

    assert logs == []


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('cpu_percnt = "x"', r"columns.cpu_percnt: the contract has no field 'cpu_percnt'.*cpu"),
        ('cpu = { colunm = "x" }', r"columns\.cpu\.colunm.*'x'"),
        ("cpu = 3", r"columns\.cpu.*3"),
        ('cpu = ""', r"columns\.cpu\.column.*''"),
        ("cpu = {}", r"columns\.cpu: needs either a column or a constant"),
        ('cpu = { column = "x", constant = 1 }', "needs either a column or a constant"),
        ("cpu = { constant = 1, scale = 2 }", "a constant takes no scale"),
        ('cpu = { column = "cpu", unit = "s" }', r"columns.cpu.unit: 's' is for the time"),
        ('cpu = { column = "cpu", map = { a = "b" } }', r"columns.cpu.map: is for enums"),
        ('cpu = { column = "cpu", scale = "100" }', r"columns\.cpu\.scale.*'100'"),
        ('cpu = { column = "cpu", scale = inf }', r"columns\.cpu\.scale.*inf"),
        ('cpu = { constant = "high" }', r"columns.cpu.constant: 'high' is no double"),
        ("cpu = { constant = true }", r"columns.cpu.constant: True is no double"),
        ("host = { constant = 3 }", r"columns.host.constant: 3 is no string"),
        ("at = { constant = 3 }", r"columns.at.constant: 3: all events cannot have one time"),
        ('at = { column = "at", unit = "h" }', r"columns\.at\.unit.*'h'"),
        ('at = { column = "at", scale = 2 }', r"columns.at: scale and offset"),
        ('at = { column = "at", unit = "s", scale = 2 }', "exclude each other"),
        ('state = { column = "state", default = "healthy" }', "a default needs a map"),
        (
            'state = { column = "state", map = { ok = "helthy" } }',
            r"columns.state.map.ok: 'helthy' is no symbol.*healthy",
        ),
        ('state = { column = "state", map = {}, default = "x" }', r"columns.state.default: 'x' is no symbol"),
        ('state = { constant = "x" }', r"columns.state.constant: 'x' is no symbol"),
        ('cpu = "load1"', r"columns.cpu: file.parquet has no column 'load1', only host, at, cpu, state"),
        (
            'state = { column = "state", map = { healthy = "healthy" } }',
            r"columns.state: file.parquet: column 'state', row 1: 'offline' is not in the map",
        ),
        (
            'cpu = { column = "state", scale = 2 }',
            r"columns.cpu: file.parquet: column 'state'.*row 0: 'healthy' is not",
        ),
        ('at = { column = "cpu", unit = "s" }\ncpu = "nope"', r"columns.cpu: .*'nope'"),
        ("cpu = ", "is not TOML"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(toml, says):
    """Whatever is unknown or wrong is an error that names mapping, field and value."""
    with pytest.raises(MappingError, match=says) as error:
        apply(toml)

    assert "m.toml" in str(error.value)


def test_a_number_in_the_wrong_unit_is_refused():
    """Milliseconds read as seconds would lie in the year 58000: the row and the unit are named."""
    with pytest.raises(MappingError, match=r"row 0: 1767571200000 is no time in 's'.*unit"):
        apply('at = { column = "ts", unit = "s" }', FRAME.assign(ts=[1_767_571_200_000, 0]))


def test_an_unknown_table_is_refused():
    """Only [columns] has a meaning."""
    with pytest.raises(MappingError, match="column"):
        Mapping.parse('[column]\ncpu = "x"')


def test_a_required_column_that_is_missing_is_named():
    """The file, the column and those that are there are named."""
    with pytest.raises(DataError, match=r"file.parquet: column 'cpu' is missing.*host, at, state"):
        Mapping.identity().apply(FRAME.drop(columns="cpu"), CONTRACT, "file.parquet")


def test_a_file_that_is_not_there(tmp_path):
    """A mapping that cannot be read is wrong usage, and named."""
    with pytest.raises(InputError, match=r"cannot read mapping .*none.toml"):
        Mapping.load(tmp_path / "none.toml")


def test_a_file_that_is_not_text(tmp_path):
    """Bytes that are not UTF-8 are an error of the mapping."""
    (tmp_path / "m.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MappingError, match="not UTF-8"):
        Mapping.load(tmp_path / "m.toml")


def test_the_earlier_systems_files_are_understood():
    """The shipped mapping fits the shipped contract and the earlier system's columns."""
    contract = Contract.load()
    legacy = Mapping.load(schemas.mapping.LEGACY)
    frame = pd.DataFrame(
        {
            "timestamp": ["2025-10-01T12:00:00"],
            "server_name": ["ppdb001"],
            "profile": ["database"],
            "state": ["morning_spike"],
            "cpu_pct": [41.5],
            "mem_pct": [60.0],
            "disk_pct": [70.0],
            "load": [3.5],
        }
    )
    out = legacy.apply(frame, contract, "old.parquet")

    assert out["server_id"].tolist() == ["ppdb001"]
    assert out[["cpu_percent", "memory_percent", "disk_percent", "load_average"]].to_numpy().tolist() == [
        [41.5, 60.0, 70.0, 3.5]
    ]
    assert out["status"].tolist() == ["morning_spike"]


def test_a_mapping_is_checked_against_the_contract_it_is_used_with():
    """The shipped mapping names fields that another contract lacks: that is said."""
    with pytest.raises(MappingError, match="no field 'server_id'"):
        Mapping.load(schemas.mapping.LEGACY).check(rich())
