"""From raw windows to the network's inputs as vector code: what ``models.network_input`` computes."""

from collections.abc import Callable, Sequence
from functools import partial

from models.layout import CHANGES, CLIP
from models.network_shape import NetworkShape, padded
from models.vector_code import Array, Code, Floats, Index, Positions


class Window:
    """One window's raw numbers, and the units that they are told in.

    Attributes:
        known: steps that are not padding.
    """

    def __init__(
        self, code: Code, shape: NetworkShape, row: Index, weight: Callable[[str], Array], held: Callable[[str], Array]
    ) -> None:
        """A window to write.

        Args:
            code: what is written.
            shape: sizes.
            row: which window.
            weight: the scalers: by lane of an input, ``targets`` 1 for a target; what is the same for all windows:
                ``shift``, ``inverse`` of a covariate; ``floor``, ``level``, ``inverse_spread`` of a target.
            held: memory: ``raw`` [encoder, inputs], ``shift``, ``inverse``, ``size``, ``one`` [inputs].
        """
        self._code, self._shape = code, shape
        self._held, self._weight = held, weight
        self._lanes = padded(shape.inputs)
        self._reals, self._lag = code.array("reals")[row], code.array("lag")[row]
        self._codes, self._statics = code.positions("codes")[row], code.positions("statics")[row]
        self._clock_rows, self._clock = code.positions("clock_rows"), code.array("clock")
        self.known = code.positions("lengths").read(row)
        self._first = code.positions("first").read(row)

    def begin(self) -> None:
        """Centre and scale, from all steps; `static` needs them, and `past`."""
        code, raw, shape = self._code, self._held("raw"), self._shape
        code.each(0, self.known, lambda t: code.each(0, shape.inputs, lambda i: raw[t].copy(i, self._reals[t], i)))
        moves = code.number((self.known - 1).at_least(1))

        def some(at: Index) -> None:
            def move(t: Index, total: list[Floats]) -> list[Floats]:
                return [abs(raw[t].read(at) - raw[t - 1].read(at)) + total[0]]

            (total,) = code.loop(1, self.known, [code.constant(0.0)], move)
            size = total / moves + self._weight("floor").read(at)
            mine = self._weight("targets").read(at)
            center = raw[self.known - 1].read(at)
            self._held("size").write(at, size)
            for name, own in (("shift", center), ("inverse", code.constant(1.0) / size)):
                self._held(name).write(at, mine.where(">", 0.0, own, self._weight(name).read(at)))

        code.each(0, self._lanes, some, code.lanes)

    def outputs(self, center: Array, scale: Array) -> None:
        """[outputs] the target's of each output."""
        shape, code = self._shape, self._code
        for source, into in ((self._held("shift"), center), (self._held("size"), scale)):

            def target(i: Index, source: Array = source, into: Array = into) -> None:
                code.each(0, shape.quantiles, lambda q: into.copy(i * shape.quantiles + q, source, i))

            code.each(0, shape.targets, target)

    def static(self, rows: Positions, into: Array) -> None:
        """The static inputs: changes by target, the window's length, then level and scale by target."""
        code, shape, one = self._code, self._shape, self._held("one")
        offset = 0
        for i, symbols in enumerate(shape.static.tables):
            rows.write(i, _symbol(self._statics, i, symbols) + offset)
            offset += symbols
        raw, now = self._held("raw"), self._held("raw")[self.known - 1]

        def put(first: int, stride: int, value: Callable[[Index], Floats]) -> None:
            code.each(0, self._lanes, lambda at: one.write(at, value(at)), code.lanes)
            code.each(0, shape.targets, lambda i: into.copy(i * stride + first, one, i))

        length = code.number(self.known) * (2.0 / shape.encoder) - 1.0
        into.write(shape.targets * len(CHANGES), length)

        def change(before: Array, at: Index) -> Floats:
            return self._told(now.read(at) - before.read(at), at)

        for k, steps in enumerate(CHANGES):
            put(k, len(CHANGES), partial(change, raw[(self.known - (1 + steps)).at_least(0)]))
        first = shape.targets * len(CHANGES) + 1
        level, spread, size = self._weight("level"), self._weight("inverse_spread"), self._held("size")
        put(first, 2, lambda at: _clipped((now.read(at) - level.read(at)) * spread.read(at)))
        put(first + 1, 2, lambda at: _clipped(code.log(size.read(at) * spread.read(at))))

    def _told(self, difference: Floats, at: Index) -> Floats:
        return self._code.asinh(difference * self._held("inverse").read(at))

    def past(self, t: Index, rows: Positions, reals: Array) -> None:
        """The inputs of a step of the encoder; of padding those of the last one."""
        code, shape = self._code, self._shape
        t = t.at_most(self.known - 1)
        self._clocked(t, t + shape.encoder - self.known, shape.past.tables, rows)
        offset, place = sum(shape.past.tables[: shape.clock_tables + 1]), shape.clock_tables + 1
        for i, size in enumerate(shape.past.tables[place:]):
            rows.write(place + i, _symbol(self._codes[t], i, size) + offset)
            offset += size
        self._known(t, t, reals)
        raw, shift = self._held("raw")[t], self._held("shift")

        def some(at: Index) -> None:
            reals.write(at + shape.clock_others + shape.lags, self._told(raw.read(at) - shift.read(at), at))

        code.each(0, self._lanes, some, code.lanes)

    def future(self, step: Index, rows: Positions, reals: Array) -> None:
        """The inputs of a step of the horizon."""
        step = step.at_most(self._shape.horizon - 1)
        self._clocked(self.known + step, step + self._shape.encoder, self._shape.future.tables, rows)
        self._known(self.known + step, step + self._shape.encoder, reals)

    def _clocked(self, step: Index, relative: Index, tables: Sequence[int], rows: Positions) -> None:
        """Rows of the calendar's tables and of the relative time's. ``step``: of the window's own."""
        offset, mine = 0, self._clock_rows[self._first + step]
        for i, size in enumerate(tables[: self._shape.clock_tables]):
            rows.write(i, mine.read(i) + offset)
            offset += size
        rows.write(self._shape.clock_tables, relative + offset)

    def _known(self, step: Index, at: Index, reals: Array) -> None:
        """Calendar inputs that are no tables, and lags. ``step``: of the window's own; ``at``: where it stands."""
        code, shape, shift = self._code, self._shape, self._held("shift")
        if shape.clock_others:
            others = self._clock[self._first + step]
            code.each(0, shape.clock_others, lambda i: reals.copy(i, others, i))
        if shape.lagged:
            one = self._held("one")
            code.each(0, shape.targets, lambda i: one.copy(i, self._lag[at], i))

            def some(at: Index) -> None:
                reals.write(at + shape.clock_others, self._told(one.read(at) - shift.read(at), at))

            code.each(0, padded(shape.targets), some, code.lanes)


def _symbol(codes: Positions, i: int, size: int) -> Index:
    """A symbol's row; whatever else should stand there, no memory beyond the table is read."""
    return codes.read(i).at_least(0).at_most(size - 1)


def _clipped(x: Floats) -> Floats:
    return x.at_least(-CLIP).at_most(CLIP)
