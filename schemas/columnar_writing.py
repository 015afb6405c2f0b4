"""Columns to framed Avro messages, whole batches at a time: no record exists in between.

What fastavro's ``schemaless_writer`` writes, byte for byte (Avro specification 1.12, "Binary encoding"). Neighbouring
numbers are written as one block of padded bytes, from which the padding is cut out at once; texts, constants and blocks
are then joined row by row.
"""

import io
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_REMEMBERED = 1 << 16  # values, of at most so many bytes each: some 20 MB a field at worst
_REMEMBERED_BYTES = 256
_BITS = {"int": 31, "long": 63}


@dataclass(frozen=True, slots=True)
class Column:
    """A field of bounded size, for ``n`` rows.

    Attributes:
        width: bytes that the widest row takes.
        widths: [n] bytes that each row takes, from the left; None where all take ``width``.
        write: fills [n, width] bytes; what it leaves beyond a row's width does not matter.
    """

    width: int
    widths: Ints | None
    write: Callable[[Bytes], None]


# A constant, one piece a row, or a column.
Part = bytes | Sequence[bytes | memoryview] | Column


def join(parts: Iterable[Part], rows: int) -> list[bytes]:
    """One message a row: its share of every part, in order."""
    pieces: list[Iterable[bytes | memoryview]] = []
    for columns, group in itertools.groupby(parts, lambda part: isinstance(part, Column)):
        if columns:
            pieces.append(_block([part for part in group if isinstance(part, Column)], rows))
        else:
            pieces += [itertools.repeat(p, rows) if isinstance(p, bytes) else p for p in group]  # type: ignore[misc]
    return list(map(b"".join, zip(*pieces, strict=True)))


def _block(columns: list[Column], rows: int) -> list[bytes]:
    """[rows] the columns side by side."""
    width = sum(column.width for column in columns)
    block = np.empty((rows, width), np.uint8)
    lengths, kept = np.full(rows, width), None
    offset = 0
    for column in columns:
        place = slice(offset, offset + column.width)
        column.write(block[:, place])
        if column.widths is not None:
            kept = np.ones((rows, width), bool) if kept is None else kept
            kept[:, place] = np.arange(column.width) < column.widths[:, None]
            lengths -= column.width - column.widths
        offset += column.width
    if kept is None:
        return row_bytes(block)
    return list(map(io.BytesIO(block[kept].data).read, lengths.tolist()))  # twice as fast as slices


def row_bytes(block: Bytes) -> list[bytes]:
    """[n, width] the bytes of each row."""
    rows: list[bytes] = block.view(np.dtype((np.void, block.shape[1])))[:, 0].tolist()
    return rows


def fixed(data: bytes) -> Column:
    """A short constant, beside numbers; a long one is cheaper as a part of its own."""
    source = np.frombuffer(data, np.uint8)

    def write(out: Bytes) -> None:
        out[:] = source

    return Column(len(data), None, write)


def numbers(values: NDArray[Any], dtype: str) -> Column:
    """[n] values of one size: ``<f8``, ``<f4`` or ``u1``."""
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is infinite, as in C
        sized = values.astype(dtype, copy=False)

    def write(out: Bytes) -> None:
        out.view(dtype)[:, 0] = sized

    return Column(np.dtype(dtype).itemsize, None, write)


def integers(values: NDArray[Any]) -> Column:
    """[n] int and long: zigzag, then seven bits a byte, the lowest first."""
    wide = values.astype(np.int64, copy=False)
    zigzag = ((wide << 1) ^ (wide >> 63)).view(np.uint64)
    width = _size(int(zigzag.max(initial=0)))
    narrowest = _size(int(zigzag.min(initial=np.iinfo(np.uint64).max)))
    widths = None if narrowest >= width else _sizes(zigzag, narrowest, width)

    def write(out: Bytes) -> None:
        for k in range(width):
            out[:, k] = zigzag >> np.uint64(7 * k)  # the lowest eight bits of it
        if widths is None:
            out[:, :-1] |= 0x80
            out[:, -1] &= 0x7F
        else:
            out |= 0x80
            out[np.arange(len(out)), widths - 1] &= 0x7F

    return Column(width, widths, write)


def _size(zigzag: int) -> int:
    return max(1, -(-zigzag.bit_length() // 7))


def _sizes(zigzag: NDArray[np.uint64], narrowest: int, width: int) -> Ints:
    sizes = np.full(len(zigzag), narrowest)
    for k in range(narrowest, width):
        sizes += zigzag >= np.uint64(1 << (7 * k))
    return sizes


def nullable(column: Column, null: Bools, branches: tuple[int, int]) -> Column:
    """A union: the branch, then the value where it is not null.

    Args:
        column: values; those of null rows may be anything.
        null: [n].
        branches: position of null, and of the value's type.
    """
    no, yes = (2 * branch for branch in branches)
    if null.all():  # also where there are no rows
        return fixed(bytes([no]))
    some = bool(null.any())
    widths = None if column.widths is None else column.widths + 1
    if some:
        widths = np.where(null, 1, column.width + 1 if widths is None else widths)

    def write(out: Bytes) -> None:
        out[:, 0] = np.where(null, no, yes) if some else yes
        column.write(out[:, 1:])

    return Column(column.width + 1, widths, write)


def integer(value: int) -> bytes:
    """One int or long."""
    zigzag = (value << 1) ^ (value >> 63)
    data = bytearray()
    while zigzag > 0x7F:
        data.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*data, zigzag])


def text(value: str) -> bytes:
    """One string."""
    data = value.encode()
    return integer(len(data)) + data


def texts(values: Sequence[str]) -> bytes:
    """One array of strings."""
    items = b"".join(map(text, values))
    return integer(len(values)) + items + b"\0" if values else b"\0"


def double(value: float) -> bytes:
    """One double."""
    return struct.pack("<d", value)


class Pieces(dict[Any, bytes]):
    """Bytes of values that come again and again; each is worked out once, as long as they are not too many."""

    def __init__(self, write: Callable[[Any], bytes], most: int = _REMEMBERED) -> None:
        """``write`` gives a value's bytes, or raises; ``most``: so many are remembered."""
        super().__init__()
        self._write, self._most = write, most

    def __missing__(self, value: Any) -> bytes:
        data = self._write(value)
        if len(data) <= _REMEMBERED_BYTES:
            if len(self) >= self._most:
                self.clear()
            self[value] = data
        return data

    def of(self, values: Iterable[Any]) -> list[bytes]:
        """The bytes of each value."""
        return list(map(self.__getitem__, values))


class FieldWriter:
    """One field of a contract: its columns in ``EventBatch`` or ``ClosedSteps`` to a part of the message.

    Null is NaN in numbers, -1 in codes and None in labels.
    """

    def __init__(self, name: str, kind: str, branches: tuple[int, int] | None = None, symbols: int = 0) -> None:
        """Of one type.

        Args:
            name: for errors.
            kind: ``double``, ``float``, ``int``, ``long``, ``enum``, ``string`` or ``boolean``.
            branches: positions of null and of the type in a nullable field's union.
            symbols: of an enum, how many.
        """
        self._name, self._kind, self._branches, self._symbols = name, kind, branches, symbols
        self._pieces = Pieces(self._label)

    def part(self, values: NDArray[Any]) -> Part:
        """The part of [n] values.

        Raises:
            ValueError: a value is not one of the field's type; with the field's name and the value.
            TypeError: likewise.
        """
        if self._kind in ("string", "boolean"):
            return self._pieces.of(values.tolist())
        if self._kind == "enum":
            return self._unless_null(values, values == -1, 0, self._symbols - 1)
        if self._kind in _BITS:
            limit = 2.0 ** _BITS[self._kind]
            return self._unless_null(values, np.isnan(values), -limit, limit)
        column = numbers(values, "<f8" if self._kind == "double" else "<f4")
        return column if self._branches is None else nullable(column, np.isnan(values), self._branches)

    def _unless_null(self, values: NDArray[Any], null: Bools, low: float, high: float) -> Column:
        """Integers from ``low`` to ``high``."""
        if self._branches is not None:
            values = np.where(null, 0, values)
        if values.dtype.kind == "f":
            values = np.rint(values)
            fits = (values >= low) & (values < high)
        else:
            fits = (values >= low) & (values <= high)
        if not fits.all():
            raise ValueError(f"{self._name}: {values[~fits][0]} is not {self._described()}")
        column = integers(values)
        return column if self._branches is None else nullable(column, null, self._branches)

    def _described(self) -> str:
        return f"the code of one of {self._symbols} symbols" if self._kind == "enum" else f"an {self._kind} of Avro"

    def _label(self, value: Any) -> bytes:
        if self._branches is not None and value is None:
            return integer(self._branches[0])
        branch = b"" if self._branches is None else integer(self._branches[1])
        if self._kind == "boolean" and isinstance(value, bool | np.bool_):
            return branch + (b"\1" if value else b"\0")
        if self._kind == "string" and isinstance(value, str):
            try:
                return branch + text(value)
            except UnicodeEncodeError as error:
                raise ValueError(f"{self._name}: {value!r} cannot be written as UTF-8: {error}") from None
        raise TypeError(f"{self._name}: {value!r} is not a {self._kind}")
