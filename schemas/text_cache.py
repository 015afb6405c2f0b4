"""Texts that come again and again, such as server ids, found by their bytes for whole columns at a time.

A cache of two ways: each text has two slots, a later one may take its place. It grows with what it holds up to a fixed
size, so hostile ids cost a miss each and no more memory, and a hit is exact: it compares every byte.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.batch import Ints, Objects

_SLOT_BITS, _MOST_SLOT_BITS = 12, 19  # 50 MB a column at worst, of half a million long texts
_WORDS = 8  # longer texts (64 bytes) are decoded each time
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # masks, by how many
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: Knuth's multiplicative hashing (TAOCP 6.4)
_HALF = np.uint64(32)
_NONE = -1


class Bytes(Protocol):
    """Bytes that words can be loaded from at any position, also of some behind each text's end."""

    data: bytes

    def load(self, at: Ints, dtype: str) -> Any:
        """[n] the values of a type at each position."""


class TextCache:
    """Decodes UTF-8, one cache a column. Not for several threads at a time."""

    def __init__(self) -> None:
        self._resize(_SLOT_BITS)

    def _resize(self, bits: int) -> None:
        """Begin anew, with room for so many."""
        self._bits, self._used = bits, 0
        self._lengths = np.full(1 << bits, _NONE, np.int64)
        self._words = np.zeros((_WORDS, 1 << bits), np.uint64)  # pages that no text touches take no memory
        self._texts: Objects = np.empty(1 << bits, object)

    def texts(self, source: Bytes, starts: Ints, lengths: Ints) -> tuple[Objects, list[int]]:
        """The texts at ``starts``, of ``lengths`` bytes.

        Returns:
            [n] str; and the rows that are not UTF-8, which have None.
        """
        longest = int(lengths.max(initial=0))
        if longest > 8 * _WORDS:
            return self._mixed(source, starts, lengths)
        words = _words(source, starts, lengths, longest)
        hashes = _hashes(words, lengths)
        slots = self._slots(hashes, 0)
        missed = (~self._hits(slots, words, lengths)).nonzero()[0]
        if len(missed):
            others = self._slots(hashes[missed], 1)
            hits = self._hits(others, [word[missed] for word in words], lengths[missed])
            slots[missed[hits]] = others[hits]
            missed = missed[~hits]
        found = self._texts.take(slots)
        if not len(missed):
            return found, []
        found[missed], bad = _decoded(source.data, starts[missed], lengths[missed])
        bad = missed[bad].tolist()
        good = np.setdiff1d(missed, bad, assume_unique=True) if bad else missed
        self._remember(hashes[good], lengths[good], [word[good] for word in words], found[good])
        return found, bad

    def _slots(self, hashes: NDArray[np.uint64], way: int) -> Ints:
        """[n] each text's slot; the ways take other bits of the hash."""
        shift = np.uint64(64 - self._bits - way * _MOST_SLOT_BITS)
        return ((hashes >> shift) & np.uint64((1 << self._bits) - 1)).astype(np.int64)

    def _hits(self, slots: Ints, words: list[NDArray[np.uint64]], lengths: Ints) -> NDArray[np.bool_]:
        """[n] whether the text is in its slot."""
        same: NDArray[np.bool_] = self._lengths[slots] == lengths
        for known, word in zip(self._words, words, strict=False):
            same &= known[slots] == word
        return same

    def _mixed(self, source: Bytes, starts: Ints, lengths: Ints) -> tuple[Objects, list[int]]:
        """Some are too long for the cache."""
        found: Objects = np.empty(len(starts), object)
        fits = lengths <= 8 * _WORDS
        short, long = np.flatnonzero(fits), np.flatnonzero(~fits)
        found[short], bad = self.texts(source, starts[short], lengths[short])
        found[long], worse = _decoded(source.data, starts[long], lengths[long])
        return found, [*short[bad].tolist(), *long[worse].tolist()]

    def _remember(
        self, hashes: NDArray[np.uint64], lengths: Ints, words: list[NDArray[np.uint64]], texts: Objects
    ) -> None:
        if 4 * self._used > 1 << self._bits and self._bits < _MOST_SLOT_BITS:
            self._resize(self._bits + 1)
        slots = self._slots(hashes, 0)
        slots = np.where(self._lengths[slots] == _NONE, slots, self._slots(hashes, 1))
        taken, first = np.unique(slots, return_index=True)  # two texts of one slot must not mix
        self._used += int((self._lengths[taken] == _NONE).sum())
        self._lengths[taken] = lengths[first]
        self._texts[taken] = texts[first]
        for known, word in zip(self._words, words, strict=False):
            known[taken] = word[first]


def _words(source: Bytes, starts: Ints, lengths: Ints, longest: int) -> list[NDArray[np.uint64]]:
    """By eight bytes, [n] those of each text; zeros where it has ended."""
    shortest = int(lengths.min(initial=longest))
    words = []
    for offset in range(0, longest, 8):
        word = source.load(starts + offset, "<u8")
        if shortest < offset + 8:
            word &= _FIRST_BYTES.take(lengths - offset, mode="clip")
        words.append(word)
    return words


def _hashes(words: Iterable[NDArray[np.uint64]], lengths: Ints) -> NDArray[np.uint64]:
    """[n] a number for each text, of which every bit depends on all of it."""
    mixed = lengths.astype(np.uint64)
    for word in words:
        mixed = (mixed ^ word) * _MIX
        mixed ^= mixed >> _HALF
    return mixed * _MIX


def _decoded(data: bytes, starts: Ints, lengths: Ints) -> tuple[Objects, list[int]]:
    """Each text decoded, equal ones once. [n] str, and the positions of those that are not UTF-8."""
    known: dict[bytes, str | None] = {}
    found: list[str | None] = []
    for start, end in zip(starts.tolist(), (starts + lengths).tolist(), strict=True):
        raw = data[start:end]
        if raw not in known:
            known[raw] = _text(raw)
        found.append(known[raw])
    texts: Objects = np.empty(len(found), object)
    texts[:] = found
    return texts, [row for row, text in enumerate(found) if text is None]


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
