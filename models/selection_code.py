"""A variable selection (Lim et al., 2021, section 4.2) as vector code, folded as in ``models.folded_selection``."""

from collections.abc import Callable
from dataclasses import dataclass

from models.layer_code import Linear, Norm, Rows, elu, gate_norm, linear, normed
from models.network_shape import SelectionShape, padded
from models.vector_code import LEAST, Array, Code, Floats, Index, Positions


@dataclass(frozen=True, slots=True)
class Steps:
    """Some steps of one window.

    Attributes:
        rows: [number, tables] which row of all of them. reals: [number, continuous].
        context: [flat] what the weights' hidden layer begins with.
        into: [number, units].
    """

    rows: Positions
    reals: Array
    context: Array
    into: Rows


class Selection:
    """One selection of the network."""

    def __init__(
        self,
        code: Code,
        shape: SelectionShape,
        hidden: int,
        weight: Callable[[str], Array],
        held: Callable[[str], Array],
    ) -> None:
        """A selection to write.

        Args:
            code: what is written.
            shape: its sizes.
            hidden: units that it makes.
            weight: its arrays by name, see `SelectionShape.weights`.
            held: memory by name, a row for each step: ``flat``, ``gates``, ``weights``, ``first``, ``one``.
        """
        self._code, self._shape, self._hidden, self._weight = code, shape, hidden, weight
        self._units, self._variables = padded(hidden), padded(shape.variables)
        self._held = held

    def select(self, steps: Steps) -> None:
        """The sum of what each variable's little network makes of it, by its weight."""
        code, weights = self._code, self._held("weights")
        if self._shape.width:
            self._weigh(steps)
        else:  # a single variable is not weighed
            code.each(0, steps.into.number, lambda i: weights[i].write(0, code.constant(1.0)))
        code.each(0, steps.into.number, lambda i: self._tables(steps.rows[i], weights[i], steps.into.array[i]))
        code.each(0, self._shape.continuous, lambda variable: self._scalar(variable, steps))

    def _weigh(self, steps: Steps) -> None:
        """[variables] of each step, which sum to 1."""
        code, variables, number = self._code, self._variables, steps.into.number
        flats, gates = self._held("flat"), self._held("gates")
        weights, first = Rows(self._held("weights"), number), padded(self._shape.width)
        code.each(0, number, lambda i: self._flatten(flats[i], steps.rows[i], steps.reals[i], steps.context))
        elu(code, first, Rows(flats, number))
        layer = Linear(self._weight("weigh.weight"), self._weight("weigh.bias"), self._shape.width)
        linear(code, 2 * variables, [(Rows(flats, number).numbers(), layer)], Rows(gates, number))
        skips = self._held("skips")
        code.each(0, number, lambda i: self._skip_of_weights(flats[i].part(first), skips[i]))
        gate_norm(code, gates, skips, self._norm("weigh"), weights)
        code.each(0, number, lambda i: self._softmax(weights.array[i]))

    def _norm(self, name: str) -> Norm:
        gain, shift, ones = (self._weight(f"{name}.{what}") for what in ("gain", "shift", "ones"))
        return Norm(gain, shift, ones, self._shape.variables)

    def _skip_of_weights(self, flat: Array, into: Array) -> None:
        if self._shape.normed:
            normed(self._code, flat.read, into, self._norm("flat"))
        else:
            self._code.copy(self._variables, flat, into)

    def _flatten(self, flat: Array, rows: Positions, reals: Array, context: Array) -> None:
        """The hidden layer and the skip: each variable adds a row, or a slope times itself."""
        code, shape = self._code, self._shape
        table, slope = self._weight("table_flat"), self._weight("flat_slope")

        def some(at: Index) -> None:
            sums = [context.read(at)]
            sums = code.loop(0, len(shape.tables), sums, lambda i, s: [s[0] + table[rows.read(i)].read(at)])
            sums = code.loop(0, shape.continuous, sums, lambda i, s: [reals.spread(i) * slope[i].read(at) + s[0]])
            flat.write(at, sums[0])

        code.each(0, shape.flat, some, code.lanes)

    def _softmax(self, row: Array) -> None:
        code, variables, ones = self._code, self._variables, self._weight("weigh.ones")

        def most(at: Index, held: list[Floats]) -> list[Floats]:
            return [ones.read(at).where(">", 0.0, row.read(at), LEAST).at_least(held[0])]

        (largest,) = code.loop(0, variables, [code.constant(LEAST)], most, code.lanes)
        largest = code.largest(largest)

        def power(at: Index, total: list[Floats]) -> list[Floats]:
            x = code.exp((row.read(at) - largest).at_most(0.0)) * ones.read(at)
            row.write(at, x)
            return [total[0] + x]

        (total,) = code.loop(0, variables, [code.constant(0.0)], power, code.lanes)
        share = code.inverse(code.total(total))
        code.each(0, variables, lambda at: row.write(at, row.read(at) * share), code.lanes)

    def _tables(self, rows: Positions, weights: Array, into: Array) -> None:
        """What the variables of few values add, which begins the sum."""
        code, table = self._code, self._weight("table")

        def some(at: Index) -> None:
            def add(i: Index, held: list[Floats]) -> list[Floats]:
                return [table[rows.read(i)].read(at) * weights.spread(i) + held[0]]

            (total,) = code.loop(0, len(self._shape.tables), [code.constant(0.0)], add)
            into.write(at, total)

        code.each(0, self._units, some, code.lanes)

    def _scalar(self, variable: Index, steps: Steps) -> None:
        """What a continuous variable adds."""
        code, units, inner, number = self._code, self._units, self._shape.inner, steps.into.number
        firsts, gates, ones = self._held("first"), self._held("gates"), self._held("one")
        slope, intercept = self._weight("slope")[variable], self._weight("intercept")[variable]

        def hidden(i: Index) -> None:
            x, first = steps.reals[i].spread(variable), firsts[i]
            code.each(0, padded(inner), lambda at: first.write(at, x * slope.read(at) + intercept.read(at)), code.lanes)

        code.each(0, number, hidden)
        elu(code, padded(inner), Rows(firsts, number))
        layer = Linear(self._weight("gate.weight")[variable], self._weight("gate.bias")[variable], inner)
        linear(code, 2 * units, [(Rows(firsts, number).numbers(), layer)], Rows(gates, number))
        code.each(0, number, lambda i: self._skip(variable, steps.reals[i].spread(variable), ones[i]))
        norm = Norm(
            self._weight("gate.gain")[variable],
            self._weight("gate.shift")[variable],
            self._weight("ones"),
            self._hidden,
        )
        gate_norm(code, gates, ones, norm, Rows(ones, number))
        weights = self._held("weights")

        def add(i: Index) -> None:
            share, one, into = weights[i].spread(variable + len(self._shape.tables)), ones[i], steps.into.array[i]
            code.each(0, units, lambda at: into.write(at, one.read(at) * share + into.read(at)), code.lanes)

        code.each(0, number, add)

    def _skip(self, variable: Index, x: Floats, into: Array) -> None:
        """The skip of a scalar is affine in it; where it has a layer norm, its variance is a polynomial."""
        square, cross, constant = (self._weight("skip.variance")[variable].spread(i) for i in range(3))
        inverse = self._code.inverse_root((square * x + cross) * x + constant)
        slope, intercept, bias = (self._weight(f"skip.{name}")[variable] for name in ("slope", "intercept", "bias"))

        def some(at: Index) -> None:
            into.write(at, x * inverse * slope.read(at) + (inverse * intercept.read(at) + bias.read(at)))

        self._code.each(0, self._units, some, self._code.lanes)
