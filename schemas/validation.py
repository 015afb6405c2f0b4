"""Which events are valid: finite, in range, with a key and a time that can be true."""

import numpy as np
from numpy.typing import NDArray

from schemas.batch import EventBatch, Ints, Rejection
from schemas.contract import Contract

# Year 1 to 9999 is what a datetime holds; before 1970 no server metric was taken.
_LATEST_MS = 253_402_300_799_999
# The network computes in float32, whose range ends at 3.4e38: beyond this a difference or a scaled value is infinite.
_LARGEST_INPUT = 1e30


def validate(batch: EventBatch, contract: Contract) -> list[Rejection]:
    """The events that are not valid, each with the first reason found; rows ascend."""
    reasons: dict[int, str] = {}
    for column, field in enumerate(contract.reals):
        values = batch.reals[:, column]
        low = -np.inf if field.minimum is None else field.minimum
        high = np.inf if field.maximum is None else field.maximum
        good = np.isfinite(values) & (values >= low) & (values <= high)
        if field.nullable:
            good |= np.isnan(values)
        for row in np.flatnonzero(~good):
            reasons.setdefault(int(row), f"{field.name}: {values[row]} is not {_range(low, high)}")
    for column, field in enumerate(contract.inputs):
        for row in np.flatnonzero(np.abs(batch.reals[:, column]) > _LARGEST_INPUT):
            reasons.setdefault(int(row), f"{field.name}: {batch.reals[row, column]} is beyond {_LARGEST_INPUT:g}")
    for row in np.flatnonzero((batch.time < 0) | (batch.time > _LATEST_MS)):
        reasons[int(row)] = f"{contract.time.name}: {batch.time[row]} ms is no time of a metric"
    for row in np.flatnonzero(batch.keys == ""):
        reasons[int(row)] = f"{contract.key.name}: is empty"
    return [Rejection(row, "validate", reasons[row]) for row in sorted(reasons)]


def ahead(batch: EventBatch, record_time: Ints, contract: Contract) -> list[Rejection]:
    """The events whose time lies more than ``max_ahead_seconds`` after their Kafka record's timestamp.

    The record's timestamp is part of the log (``LogAppendTime``), so the rule is deterministic, and one fast clock
    cannot close everybody's steps.

    Args:
        batch: the events.
        record_time: [n] the records' timestamps in ms.
        contract: gives ``max_ahead_seconds``.
    """
    limit = contract.settings.max_ahead_seconds
    return [
        Rejection(
            int(row),
            "validate",
            f"{contract.time.name}: {iso(batch.time[row])} is more than {limit:g} s after the record was appended "
            f"({iso(record_time[row])})",
        )
        for row in np.flatnonzero(batch.time > record_time + round(limit * 1000))
    ]


def rows_without(rejections: list[Rejection], n: int) -> NDArray[np.bool_]:
    """Mask [n] of the rows that no rejection names."""
    keep = np.ones(n, bool)
    keep[[r.row for r in rejections]] = False
    return keep


def _range(low: float, high: float) -> str:
    if low == -np.inf and high == np.inf:
        return "a finite number"
    if high == np.inf:
        return f"a finite number of at least {low:g}"
    return f"between {low:g} and {high:g}" if low > -np.inf else f"at most {high:g}"


def iso(time_ms: np.int64 | int) -> str:
    """A time in messages: ISO, UTC."""
    return f"{np.datetime64(int(time_ms), 'ms')}Z"  # no time is too absurd for it, as one is for a datetime
