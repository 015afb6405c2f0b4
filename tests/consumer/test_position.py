import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.position import VERSION, Position, parse

offsets = st.integers(0, 2**62)


@given(sorted_offsets=st.lists(offsets, min_size=4, max_size=4), watermark=st.none() | st.integers(0, 2**50))
def test_what_is_written_is_read(sorted_offsets: list[int], watermark: int | None) -> None:
    """A position survives its text."""
    resume, following = sorted(sorted_offsets[:2])
    start, end = sorted(sorted_offsets[2:])
    position = Position(resume, following, watermark, start, end)

    assert parse(resume, position.metadata()) == position
    assert len(position.metadata()) < 200, "brokers take 4,096 bytes by default"


def text(**changes: object) -> str:
    return json.dumps({"v": VERSION, "next": 7, "watermark": 1, "steps": [2, 3], **changes})


@pytest.mark.parametrize(
    "metadata",
    [
        None, "", "nonsense", "[]", "7", "null", "{}", text(v=VERSION + 1), text(v="1"), text(next=None),
        text(next=True), text(next="7"), text(next=4), text(watermark=1.5), text(watermark="1"), text(steps=[3, 2]),
        text(steps=[-1, 2]), text(steps=[1]), text(steps=None), text(steps=[1, 2, 3]),
    ],
)  # fmt: skip
def test_what_another_wrote_is_none(metadata: str | None) -> None:
    """Missing, damaged, of another version, or impossible: it is not believed."""
    assert parse(5, metadata) is None


def test_a_good_one_is_believed() -> None:
    """The text that the bad ones were made from is good."""
    assert parse(5, text()) == Position(5, 7, 1, 2, 3)
    assert parse(5, text(watermark=None)) == Position(5, 7, None, 2, 3)
