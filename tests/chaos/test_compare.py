"""The comparison finds each fault there can be; one that cannot fail would be worth nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.chaos.compare import Record, Table, Verdict, compare
from tests.chaos.outputs import forecast_of, letter_of, step_of
from tests.chaos.silence import longest_silence

Records = list[Record]


def published() -> Records:
    return [
        Record((f"server-{s}", t), ("version", 0, 100 + t), (1.0, 2.0 + s, 3.0)) for s in range(3) for t in range(4)
    ]


def verdict(change: Callable[[Records], Any]) -> Verdict:
    """Of a topic that is as it should be but for ``change``."""
    disturbed = published()
    change(disturbed)
    return compare(Table.of(published()), Table.of(disturbed))


def put(row: int, **changes: Any) -> Callable[[Records], Any]:
    def change(records: Records) -> None:
        records[row] = records[row]._replace(**changes)

    return change


def test_equal_topics_are_clean_in_whatever_order() -> None:
    """Partitions are read one after the other, or not; only which records are there counts."""
    found = verdict(lambda records: records.reverse())

    assert found.clean
    assert found.identical
    assert (found.records, found.largest) == (12, 0)


def test_nothing_at_all_is_not_clean() -> None:
    """Two empty topics are equal, and show nothing."""
    assert not compare(Table(), Table()).clean


def test_a_lost_record_is_found() -> None:
    found = verdict(lambda records: records.pop(5))

    assert (found.lost, found.invented, found.doubled, found.different) == (1, 0, 0, 0)
    assert not found.clean
    assert "server-1" in found.examples[0]


def test_a_topic_that_is_empty_has_lost_everything() -> None:
    assert verdict(lambda records: records.clear()).lost == 12


def test_a_record_that_should_not_be_there_is_found() -> None:
    found = verdict(lambda records: records.append(records[0]._replace(key=("server-9", 0))))

    assert (found.lost, found.invented, found.doubled, found.different) == (0, 1, 0, 0)
    assert not found.clean


@pytest.mark.parametrize("times", [1, 3])
def test_a_doubled_record_is_found(times: int) -> None:
    """As often as it comes too many."""
    found = verdict(lambda records: records.extend([records[7]] * times))

    assert (found.lost, found.invented, found.doubled, found.different) == (0, 0, times, 0)
    assert not found.clean


def test_a_record_doubled_by_the_undisturbed_group_is_found_too() -> None:
    """What the other is measured against must itself be exactly once."""
    found = compare(Table.of([*published(), published()[0]]), Table.of(published()))

    assert (found.doubled, found.calm_doubled) == (0, 1)
    assert not found.clean


def test_a_doubled_record_does_not_make_up_for_a_lost_one() -> None:
    """The same number of records is not the same records."""
    found = verdict(put(3, key=("server-0", 2)))

    assert (found.lost, found.doubled) == (1, 1)


def test_a_changed_offset_is_different() -> None:
    found = verdict(put(2, exact=("version", 0, 103)))

    assert (found.lost, found.invented, found.doubled, found.different) == (0, 0, 0, 1)
    assert not found.clean
    assert not found.identical


@pytest.mark.parametrize(("value", "different"), [(2.00002, 0), (2.0001, 1), (float("nan"), 1), (float("inf"), 1)])
def test_a_different_value_is_found_beyond_rounding(value: float, different: int) -> None:
    """1e-5 (1 + |b|) is rounding; either way it is not identical, and its size is told."""
    found = verdict(put(0, values=(1.0, value, 3.0)))

    assert found.different == different
    assert found.clean is (different == 0)
    assert not found.identical
    assert found.largest > 0


def test_records_of_another_shape_are_different() -> None:
    def longer(records: Records) -> None:
        records[:] = [r._replace(values=(*r.values, 4.0)) for r in records]

    assert verdict(longer).different == 12


def step(**changes: Any) -> dict[str, Any]:
    head = {"server_id": "a", "step_start": 60_000, "step_seconds": 60, "count": 5, "held": False, "held_fields": ["t"]}
    return {**head, "load": 1.5, "state": "up", "contract_fingerprint": "f", **changes}


@pytest.mark.parametrize(
    "change",
    [
        {"count": 4},
        {"held": True},
        {"held_fields": []},
        {"load": np.nextafter(1.5, 2)},
        {"load": None},
        {"state": "busy"},
    ],
)
def test_every_bit_of_a_step_counts(change: dict[str, Any]) -> None:
    """Also its partition."""
    calm = Table.of([step_of(1, step())])

    assert compare(calm, Table.of([step_of(1, step())])).clean
    assert compare(calm, Table.of([step_of(1, step(**change))])).different == 1
    assert compare(calm, Table.of([step_of(2, step())])).different == 1


def forecast(offset: int = 7, value: float = 1.0, probability: float = 0.5, **changes: Any) -> dict[str, Any]:
    breach = {"threshold": 70.0, "direction": "above", "probability": probability, "first_breach_at": None}
    quantiles = [{"level": 0.5, "values": [1.0, value]}]
    targets = [
        {"name": "load", "unit": "", "quantiles": quantiles, "breach": breach},
        {"name": "queue", "unit": "", "quantiles": quantiles, "breach": None},
    ]
    head = {"server_id": "a", "issued_at": 60_000, "step_seconds": 60, "horizon_steps": 2, "model_version": "m"}
    more = {"contract_fingerprint": "f", "encoder_steps": 12, "held_steps": 0, "targets": targets}
    return {**head, **more, "source": {"topic": "chaos", "partition": 1, "offset": offset}, **changes}


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 8},
        {"value": 1.1},
        {"probability": 0.6},
        {"encoder_steps": 13},
        {"held_steps": 1},
        {"model_version": "n"},
    ],
)
def test_every_part_of_a_forecast_counts(change: dict[str, Any]) -> None:
    calm = Table.of([forecast_of(forecast())])

    assert compare(calm, Table.of([forecast_of(forecast())])).clean
    assert compare(calm, Table.of([forecast_of(forecast(**change))])).different == 1


@pytest.mark.parametrize(("stage", "value"), [("decode", b"x"), ("late", b"y"), ("late", None)])
def test_stage_and_bytes_of_a_dead_letter_count(stage: str, value: bytes | None) -> None:
    def letter(stage: str, value: bytes | None) -> Table:
        where = [("__connect.errors.partition", b"1"), ("__connect.errors.offset", b"5")]
        return Table.of([letter_of([*where, ("__connect.errors.stage", stage.encode())], b"key", value)])

    assert compare(letter("late", b"x"), letter("late", b"x")).clean
    assert compare(letter("late", b"x"), letter(stage, value)).different == 1


def test_the_longest_silence_is_that_of_the_partition_that_waited() -> None:
    """Counted from what happened, to its real end; what lay before or came after is not its doing."""
    seen = {0: np.arange(0.0, 60.0), 1: np.array([0.0, 9.5, 22.0, 23.0, 40.0])}

    assert longest_silence(seen, 10, 20) == 12
    assert longest_silence(seen, 22.5, 23) == 0.5
    assert longest_silence(seen, 21, 30) == 17
    assert longest_silence({}, 0, 10) == 0
