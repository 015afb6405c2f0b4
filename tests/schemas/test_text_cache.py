import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import text_cache
from schemas.columnar_reading import Buffer
from schemas.text_cache import TextCache

TEXTS = st.binary(max_size=80)


def decoded(cache: TextCache, raw: list[bytes]) -> tuple[list[str | None], list[int]]:
    """What the cache makes of texts that stand one behind the other."""
    lengths = np.array([len(each) for each in raw], np.int64)
    starts = np.append(0, np.cumsum(lengths))[: len(raw)]
    found, bad = cache.texts(Buffer([b"".join(raw)], 64), starts, lengths)
    return found.tolist(), bad


def expected(raw: list[bytes]) -> list[str | None]:
    texts: list[str | None] = []
    for each in raw:
        try:
            texts.append(each.decode())
        except UnicodeDecodeError:
            texts.append(None)
    return texts


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=12), min_size=1, max_size=4))
def test_whatever_it_holds_it_decodes_as_python_does(batches: list[list[bytes]]) -> None:
    """Long and short, empty, damaged and repeated ones; twice over, so that most are found."""
    cache = TextCache()
    for raw in [*batches, *batches]:
        wanted = expected(raw)

        assert decoded(cache, raw) == (wanted, [row for row, text in enumerate(wanted) if text is None])


def test_in_a_crowded_cache_no_text_is_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots for hundreds of texts."""
    monkeypatch.setattr(text_cache, "_SLOT_BITS", 1)
    monkeypatch.setattr(text_cache, "_MOST_SLOT_BITS", 1)
    cache, rng = TextCache(), np.random.default_rng(0)
    for _ in range(20):
        raw = [f"server-{n}".encode() for n in rng.integers(0, 300, 50)]

        assert decoded(cache, raw)[0] == expected(raw)


def test_it_grows_with_the_fleet_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet is remembered whole, but for a few; ids that never come again do not fill the memory."""
    monkeypatch.setattr(text_cache, "_SLOT_BITS", 4)
    monkeypatch.setattr(text_cache, "_MOST_SLOT_BITS", 12)
    cache, fleet = TextCache(), [f"server-{n}".encode() for n in range(1_000)]
    for _ in range(12):
        decoded(cache, fleet)
    known = {id(text) for text in cache._texts if text is not None}
    assert sum(id(text) in known for text in decoded(cache, fleet)[0]) >= 960

    for start in range(0, 50_000, 5_000):
        decoded(cache, [f"invented-{n}".encode() for n in range(start, start + 5_000)])

    assert len(cache._texts) == 1 << 12
