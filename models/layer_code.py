"""Layers of the network as vector code: units stand side by side in the lanes, a few rows pass at a time.

A row is one step of one window. Units are padded with zeros to whole vectors (`padded`) and stay zeros.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.network_shape import padded
from models.vector_code import Array, Code, Floats, Index

_SUMS = {16: 16, 8: 8}  # by lanes: sums that fit the registers beside what is added to them
_EPSILON = 1e-5  # torch's layer norm

Numbers = Callable[[Index], Floats]  # of a row, by position


@dataclass(frozen=True, slots=True)
class Linear:
    """``weight``: [inputs, outputs] with padded outputs. ``bias``: [outputs]."""

    weight: Array
    bias: Array
    inputs: int


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm of so many units; ``ones``: 1 for each of them, 0 where they are padded."""

    gain: Array
    shift: Array
    ones: Array
    units: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows one after another: [number, units]."""

    array: Array
    number: int

    def each(self) -> list[Array]:
        """Each by itself."""
        return [self.array[i] for i in range(self.number)]

    def numbers(self) -> list[Numbers]:
        """Each by its single numbers."""
        return [row.spread for row in self.each()]


def linear(code: Code, outputs: int, layers: Sequence[tuple[Sequence[Numbers], Linear]], into: Rows) -> None:
    """The sum of linear layers, each of its own rows; the bias is the first one's.

    Args:
        code: what is written.
        outputs: padded.
        layers: each with as many rows of inputs as there are in ``into``, given by single numbers in each lane.
        into: [rows, outputs].
    """
    vectors = outputs // code.lanes
    most = max(1, _SUMS[code.lanes] // into.number)
    wide = max(n for n in range(1, min(most, vectors) + 1) if vectors % n == 0)

    def some(first: Index) -> None:
        places = [first + vector * code.lanes for vector in range(wide)]
        bias = layers[0][1].bias
        sums = [bias.read(place) for place in places] * into.number
        for rows, layer in layers:

            def add(
                i: Index, sums: list[Floats], rows: Sequence[Numbers] = rows, layer: Linear = layer
            ) -> list[Floats]:
                weights = [layer.weight[i].read(place) for place in places]
                inputs = [row(i) for row in rows]
                return [x * w + sums[r * wide + v] for r, x in enumerate(inputs) for v, w in enumerate(weights)]

            sums = code.loop(0, layer.inputs, sums, add)
        for r, row in enumerate(into.each()):
            for v, place in enumerate(places):
                row.write(place, sums[r * wide + v])

    code.each(0, outputs, some, wide * code.lanes)


def elu(code: Code, units: int, rows: Rows) -> None:
    """In place: x where it is positive, else exp(x) - 1."""

    def one(row: Array) -> None:
        def some(at: Index) -> None:
            x = row.read(at)
            row.write(at, x.where(">", 0.0, x, code.exp(x.at_most(0.0)) - 1.0))

        code.each(0, units, some, code.lanes)

    code.each(0, rows.number, lambda i: one(rows.array[i]))


def gate_norm(code: Code, gates: Array, skips: Array, norm: Norm, into: Rows) -> None:
    """The layer norm of a gated linear unit and a skip (GLU, then add and norm; Lim et al., 2021, section 4.1).

    Args:
        code: what is written.
        gates: [rows, 2 x units] numbers, then what opens them.
        skips: [rows, units].
        norm: the layer norm.
        into: [rows, units]; it may be ``skips``.
    """
    units = padded(norm.units)

    def one(i: Index) -> None:
        gate, skip, row = gates[i], skips[i], into.array[i]

        def gated(at: Index) -> Floats:
            return gate.read(at) * code.sigmoid(gate.read(at + units)) + skip.read(at)

        normed(code, gated, row, norm)

    code.each(0, into.number, one)


def normed(code: Code, numbers: Numbers, into: Array, norm: Norm) -> None:
    """The layer norm of a row of ``numbers``, which begin at a position."""
    units = padded(norm.units)

    def given(at: Index, total: list[Floats]) -> list[Floats]:
        x = numbers(at)
        into.write(at, x)
        return [total[0] + x]

    (total,) = code.loop(0, units, [code.constant(0.0)], given, code.lanes)
    mean = code.total(total) * (1 / norm.units)

    def centred(at: Index, squares: list[Floats]) -> list[Floats]:
        x = (into.read(at) - mean) * norm.ones.read(at)
        into.write(at, x)
        return [x * x + squares[0]]

    (squares,) = code.loop(0, units, [code.constant(0.0)], centred, code.lanes)
    inverse = code.inverse_root(code.total(squares) * (1 / norm.units) + _EPSILON)

    def scaled(at: Index) -> None:
        into.write(at, into.read(at) * inverse * norm.gain.read(at) + norm.shift.read(at))

    code.each(0, units, scaled, code.lanes)


@dataclass(frozen=True, slots=True)
class LstmState:
    """``cell`` and ``hidden``: [units], padded."""

    cell: Array
    hidden: Array
    units: int


def lstm_step(code: Code, gates: Array, state: LstmState, into: Array, going: Floats | None) -> None:
    """One step of an LSTM.

    Args:
        code: what is written.
        gates: [4 x units] input, forget, cell and output.
        state: in place.
        into: [units] the hidden units once more.
        going: where it is not positive the state stays as it is.
    """
    cell, hidden, units = state.cell, state.hidden, state.units

    def some(at: Index) -> None:
        keep, forget, out = (code.sigmoid(gates.read(at + gate * units)) for gate in (0, 1, 3))
        held = forget * cell.read(at) + keep * _tanh(code, gates.read(at + 2 * units))
        shown = out * _tanh(code, held)
        into.write(at, shown)
        for row, numbers in ((cell, held), (hidden, shown)):
            row.write(at, numbers if going is None else going.where(">", 0.0, numbers, row.read(at)))

    code.each(0, units, some, code.lanes)


def _tanh(code: Code, x: Floats) -> Floats:
    return code.sigmoid(x * 2.0) * 2.0 - 1.0
