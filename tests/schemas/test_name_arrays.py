import io
from typing import Any

import fastavro
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.columnar_reading import Buffer
from schemas.name_arrays import NameArrays

NAMES = tuple(f"name{i}" for i in range(9))
ARRAY = fastavro.parse_schema({"type": "array", "items": "string"})


def block(names: list[str], sized: bool) -> bytes:
    """Avro 1.12, "Arrays": a block with its count, or with its count negated and its size in bytes."""

    def long(value: int) -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, "long", value)
        return out.getvalue()

    items = b"".join(long(len(name.encode())) + name.encode() for name in names)
    return (long(-len(names)) + long(len(items)) if sized else long(len(names))) + items


arrays = st.lists(
    st.tuples(st.lists(st.sampled_from([*NAMES, "other", ""]), min_size=1, max_size=3), st.booleans()), max_size=3
).map(lambda blocks: b"".join(block(*one) for one in blocks) + b"\0")


@given(st.lists(st.tuples(arrays, st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_arrays_are_read_as_fastavro_does(drawn: list[tuple[bytes, bytes, int]]) -> None:
    """In any number of blocks, whatever follows, also cut off: the names and the width that fastavro finds."""
    messages = [(array + behind)[: len(array) + len(behind) - cut] for array, behind, cut in drawn]
    reader, buffer = NameArrays(NAMES), Buffer(messages, 0)
    for _ in range(2):
        masks, widths, bad = reader.masks(buffer, buffer.starts, buffer.ends)
        for row, message in enumerate(messages):
            assert (bad[row], widths[row], masks[row].tolist()) == expected(message)


def expected(message: bytes) -> tuple[bool, int, list[bool]]:
    source = io.BytesIO(message)
    try:
        found: Any = fastavro.schemaless_reader(source, ARRAY, None)
    except Exception:  # noqa: BLE001  fastavro's errors have no common base
        return True, 0, [False] * len(NAMES)
    if not set(found) <= set(NAMES):
        return True, 0, [False] * len(NAMES)
    return False, source.tell(), [name in found for name in NAMES]


def test_more_patterns_than_are_remembered() -> None:
    """All 512 subsets of nine names are told apart, whichever came first."""
    masks = np.array([[bool(i >> bit & 1) for bit in range(len(NAMES))] for i in range(512)])
    messages = []
    for mask in masks:
        names = [name for name, there in zip(NAMES, mask, strict=True) if there]
        messages.append((block(names, sized=False) if names else b"") + b"\0")
    reader, buffer = NameArrays(NAMES), Buffer(messages, 0)
    for _ in range(2):
        found, widths, bad = reader.masks(buffer, buffer.starts, buffer.ends)
        np.testing.assert_array_equal(found, masks)
        assert widths.tolist() == list(map(len, messages))
        assert not bad.any()
