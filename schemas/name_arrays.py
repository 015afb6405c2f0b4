"""Avro arrays of texts out of a short list, such as which inputs were carried over, read as masks.

The same few patterns come again and again. An array's bytes say where it ends, so bytes that begin like those of a
known array are that array: each known one is compared with all rows at once, and fastavro reads only what is new.
"""

import io
from collections.abc import Sequence
from typing import Any, Protocol

import fastavro
import numpy as np
from numpy.typing import NDArray

from schemas.batch import Ints

_ARRAY = fastavro.parse_schema({"type": "array", "items": "string"})
_MOST_KNOWN = 64  # patterns: each costs a comparison


class Bytes(Protocol):
    """Bytes that can be compared at any position."""

    data: bytes

    def same(self, at: Ints, raw: bytes) -> NDArray[np.bool_]:
        """[n] whether ``raw`` stands at each position; all of it lies within ``data``."""


class NameArrays:
    """Reads arrays of some of ``names``. Not for several threads at a time."""

    def __init__(self, names: Sequence[str]) -> None:
        self.columns = len(names)
        self._column = {name: column for column, name in enumerate(names)}
        self._known: dict[bytes, NDArray[np.bool_]] = {}

    def masks(self, source: Bytes, starts: Ints, ends: Ints) -> tuple[NDArray[np.bool_], Ints, NDArray[np.bool_]]:
        """The arrays at ``starts``, none of which may go beyond its ``ends``.

        Returns:
            [n, names] which are there; [n] widths in bytes; [n] whether it is no such array, so that they mean nothing.
        """
        n = len(starts)
        masks, widths, bad = np.zeros((n, self.columns), bool), np.zeros(n, np.int64), np.zeros(n, bool)
        left = np.arange(n)
        for raw, mask in self._known.items():
            if not len(left):
                break
            found = ends[left] - starts[left] >= len(raw)
            found[found] = source.same(starts[left[found]], raw)
            masks[left[found]], widths[left[found]] = mask, len(raw)
            left = left[~found]
        for row in left.tolist():
            read = self._read(source.data[starts[row] : ends[row]])
            if read is None:
                bad[row] = True
            else:
                masks[row], widths[row] = read
        return masks, widths, bad

    def _read(self, tail: bytes) -> tuple[NDArray[np.bool_], int] | None:
        """The array that ``tail`` begins with, and its width; None where fastavro has to see the whole record."""
        source = io.BytesIO(tail)
        try:
            names: Any = fastavro.schemaless_reader(source, _ARRAY, None)
            columns = [self._column[name] for name in names]
        except Exception:  # noqa: BLE001  fastavro's errors have no common base; the row is read again, and judged then
            return None
        mask = np.zeros(self.columns, bool)
        mask[columns] = True
        raw = tail[: source.tell()]
        if len(self._known) < _MOST_KNOWN:
            self._known[raw] = mask
        return mask, len(raw)
