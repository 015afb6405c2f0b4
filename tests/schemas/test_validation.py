import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.validation import ahead, rows_without, validate
from tests import contracts
from tests.contracts import field

NOW = 1_700_000_000_000
CONTRACT = Contract(
    contracts.schema(
        field("load", "double", "target", minimum=0, maximum=100),
        field("queue", ["null", "double"], "target"),
        field("drop", "double", "covariate", maximum=5),
        field("heat", ["null", "float"], "context", minimum=-50),
        max_ahead_seconds=20,
    )
)


def events(*rows: dict[str, object]) -> EventBatch:
    """One event a row: valid, but for what the row says."""
    batch = EventBatch.allocate(CONTRACT, len(rows))
    names = [f.name for f in CONTRACT.reals]
    for i, row in enumerate(rows):
        batch.keys[i] = row.get("host", "a")
        batch.time[i] = row.get("at", NOW)
        batch.reals[i] = [row.get(name, 1.0) for name in names]
    return batch


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"load": math.nan}, "load: nan"),
        ({"load": math.inf}, "load: inf"),
        ({"load": -math.inf}, "load: -inf"),
        ({"load": -0.001}, "load: -0.001 is not between 0 and 100"),
        ({"load": 100.001}, "load: 100.001 is not between 0 and 100"),
        ({"queue": math.inf}, "queue: inf is not a finite number"),
        ({"queue": -1e300}, "queue: -1e+300 is beyond 1e+30"),
        ({"drop": 5.5}, "drop: 5.5 is not at most 5"),
        ({"drop": math.nan}, "drop: nan"),
        ({"heat": -51.0}, "heat: -51.0 is not a finite number of at least -50"),
        ({"heat": math.inf}, "heat: inf"),
        ({"host": ""}, "host: is empty"),
        ({"at": -1}, "at: -1 ms"),
        ({"at": 2**62}, "at: 4611686018427387904 ms"),
        ({"at": -(2**62)}, "at: -4611686018427387904 ms"),
    ],
)
def test_invalid_events_are_named(row: dict[str, object], told: str) -> None:
    """Each invalid event is refused alone, with the field and the value; its neighbours are not touched."""
    rejected = validate(events({}, row, {}), CONTRACT)

    assert [(r.row, r.stage) for r in rejected] == [(1, "validate")]
    assert told in rejected[0].reason


@pytest.mark.parametrize(
    "row",
    [{"load": 0.0}, {"load": 100.0}, {"queue": math.nan}, {"heat": math.nan}, {"heat": -50.0}, {"drop": -1e29},
     {"heat": 1e38}, {"at": 253_402_300_799_999}],
)  # fmt: skip
def test_the_bounds_themselves_and_null_are_valid(row: dict[str, object]) -> None:
    """The bounds belong to the range, and null is no error where it is allowed."""
    assert validate(events(row), CONTRACT) == []


def test_one_reason_a_row_in_ascending_order() -> None:
    """An event with several faults is refused once, and the rows ascend."""
    rejected = validate(events({"host": "", "load": -1.0, "at": -1}, {}, {"drop": 9.0}, {"load": -1.0}), CONTRACT)

    assert [r.row for r in rejected] == [0, 2, 3]


def test_no_events() -> None:
    """An empty batch has no faults."""
    assert validate(EventBatch.empty(CONTRACT), CONTRACT) == []
    assert ahead(EventBatch.empty(CONTRACT), np.array([], np.int64), CONTRACT) == []


def test_ahead_of_its_record() -> None:
    """An event more than max_ahead_seconds after its record was appended is refused; exactly that much is not."""
    batch = events({"at": NOW + 20_000}, {"at": NOW + 20_001}, {"at": NOW - 10**9})
    rejected = ahead(batch, np.full(3, NOW), CONTRACT)

    assert [(r.row, r.stage) for r in rejected] == [(1, "validate")]
    assert "2023-11-14T22:13:40.001Z is more than 20 s after" in rejected[0].reason


@given(st.integers(-(2**62), 2**62), st.integers(-1, 2**42))
def test_no_time_is_too_absurd_to_be_told(time: int, appended: int) -> None:
    """Any event time is judged without an exception: one absurd clock must not stop the service."""
    batch = events({"at": time})
    rejected = ahead(batch, np.array([appended]), CONTRACT)

    assert bool(rejected) == (time > appended + 20_000)
    assert bool(validate(batch, CONTRACT)) == (not 0 <= time <= 253_402_300_799_999)


def test_the_rows_that_remain() -> None:
    """The mask keeps exactly the rows that nobody refused."""
    rejected = validate(events({}, {"load": -1.0}, {}), CONTRACT)

    assert rows_without(rejected, 3).tolist() == [True, False, True]
    assert rows_without([], 2).tolist() == [True, True]
