"""What was published beside what one pass publishes."""

from collections import Counter
from typing import Any

import fastavro
import numpy as np

from consumer.messages import Outgoing
from consumer.published import SOURCE_OFFSET
from schemas.codec import read_value, split
from schemas.records import forecast_schema
from schemas.topics import Topics

TOPICS = Topics()
FORECAST = fastavro.parse_schema(forecast_schema())


def steps(records: list[Outgoing]) -> list[tuple]:
    return [(r.partition, r.key, r.value, tuple(r.headers)) for r in records if r.topic == TOPICS.steps]


def letters_of(records: list[Outgoing]) -> list[tuple]:
    return [(r.key, r.value, tuple(r.headers)) for r in records if r.topic == TOPICS.dlq]


def source(record: Outgoing) -> int:
    return int(dict(record.headers)[SOURCE_OFFSET] or -1)


def same(found: Counter, expected: Counter) -> None:
    assert not found - expected, "published too often, or nowhere else"
    assert not expected - found, "lost"


def forecasts(records: list[Outgoing]) -> dict[tuple, list[np.ndarray]]:
    """Numbers by everything else that a forecast says."""
    found: dict[tuple, list[np.ndarray]] = {}
    for record in records:
        if record.topic == TOPICS.forecasts:
            forecast: Any = read_value(split(record.value)[1], FORECAST)
            values = [q.pop("values") for target in forecast["targets"] for q in target["quantiles"]]
            found.setdefault((record.key, repr(forecast)), []).append(np.array(values))
    return found


def compare_forecasts(found: list[Outgoing], expected: list[Outgoing], *, once: bool) -> None:
    """Equal; the place in a block of inference shows in the last bits."""
    got, wanted = forecasts(found), forecasts(expected)
    same(Counter(got.keys()), Counter(wanted.keys()))
    for key, copies in got.items():
        assert len(copies) == 1 or not once
        for copy in copies:
            worst = float((np.abs(copy - wanted[key][0]) / (1 + np.abs(wanted[key][0]))).max())
            assert worst <= 1e-4, f"{key} differs by {worst}"
