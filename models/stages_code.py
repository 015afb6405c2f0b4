"""The last stages of a forecast as vector code: bounds, ascending order of the quantiles, and chances of a breach.

The rule of ``models.breach``, in float32.
"""

from collections.abc import Callable
from functools import cache

from models.kernel import Kernel
from models.network_shape import WIDEST
from models.vector_code import Array, Code, Floats, Index

SPARE = WIDEST  # numbers of each quantile that the kernel needs beside its arrays
# Of a target: its bounds; what a breach is above, or below where ``above`` is 0, as a float32 and what that leaves.
RULE = ("low", "high", "limit", "rest", "above")


@cache
def stages_kernel(quantiles: int, horizon: int) -> Kernel:
    """Compile it, for rows that are targets of windows. Its arguments, in this order.

    ``values`` [rows, quantiles, horizon], in place. ``rules`` [rows, RULE]. ``levels`` [quantiles].
    ``breaches`` [rows, 2]: the largest probability of a step's breach, and the first step at which it is 0.5 or more,
    which is beyond the horizon where there is none. ``spare`` [quantiles, SPARE].
    """
    code = Code("stages", {
        "values": (Array, (quantiles, horizon)), "rules": (Array, (len(RULE),)), "levels": (Array, ()),
        "breaches": (Array, (2,)), "spare": (Array, (SPARE,)),
    })  # fmt: skip
    code.each(0, code.rows, lambda row: _Row(code, quantiles, horizon, row).stages())
    return code.compile()


class _Row:
    """One target of one window."""

    def __init__(self, code: Code, quantiles: int, horizon: int, row: Index) -> None:
        self._code, self._quantiles, self._horizon = code, quantiles, horizon
        self._values, self._spare, self._levels = code.array("values")[row], code.array("spare"), code.array("levels")
        self._low, self._high, self._limit, self._rest, self._above = (
            code.array("rules")[row].spread(i) for i in range(len(RULE))
        )
        self._breach = code.array("breaches")[row]
        self._lane = code.constant(list(range(code.lanes)))

    def stages(self) -> None:
        """All steps, as many as there are lanes at a time."""
        code, horizon = self._code, self._horizon
        whole = horizon // code.lanes * code.lanes
        state = [code.constant(0.0), code.constant(float(horizon))]  # the largest chance, the first likely step
        state = code.loop(0, whole, state, lambda at, s: self._some(self._values, at, code.number(at), s), code.lanes)
        if whole < horizon:  # what does not fill a vector
            code.each(0, self._quantiles, lambda q: self._copy(self._values[q].part(whole), self._spare[q]))
            state = self._some(self._spare, 0, code.constant(float(whole)), state)
            code.each(0, self._quantiles, lambda q: self._copy(self._spare[q], self._values[q].part(whole)))
        largest, first = code.largest(state[0]), -code.largest(-state[1])
        for i, number in enumerate((largest, first)):
            self._breach.part(i).put(number)

    def _copy(self, source: Array, into: Array) -> None:
        self._code.each(0, self._horizon % self._code.lanes, lambda i: into.copy(i, source, i))

    def _some(self, place: Array, at: Index | int, first: Floats, state: list[Floats]) -> list[Floats]:
        """``first``: the step with which the vector begins."""
        code = self._code

        def bounded(q: Index) -> None:
            place[q].write(at, place[q].read(at).at_least(self._low).at_most(self._high))

        code.each(0, self._quantiles, bounded)
        self._ascend(lambda q: place[q].read(at), lambda q, x: place[q].write(at, x))
        chance, step = self._chance(lambda q: place[q].read(at)), first + self._lane
        chance = step.where("<", float(self._horizon), chance, 0.0)
        likely = chance.where(">=", 0.5, step, float(self._horizon))
        return [state[0].at_least(chance), state[1].at_most(likely)]

    def _ascend(self, read: Callable[[Index], Floats], write: Callable[[Index, Floats], None]) -> None:
        """Sort over the quantiles by exchanging neighbours, first those at even places, then those at odd ones."""
        code = self._code

        def exchanged(q: Index) -> None:
            low, high = read(q), read(q + 1)
            write(q, low.at_most(high))
            write(q + 1, low.at_least(high))

        def turn(_: Index) -> None:
            for parity in (0, 1):
                code.each(parity, self._quantiles - 1, exchanged, 2)

        code.each(0, (self._quantiles + 1) // 2, turn)

    def _chance(self, read: Callable[[Index | int], Floats]) -> Floats:
        """Linear between the quantiles; 0 or 1 beyond the outermost ones, about which the forecast says nothing."""
        code, limit, levels = self._code, self._limit, self._levels
        under = read(0).where("<=", limit, levels.spread(0), 0.0)

        def between(q: Index, held: list[Floats]) -> list[Floats]:
            low, high = read(q - 1), read(q)
            share = ((limit - low + self._rest) / (high - low).at_least(1e-12)).at_least(0.0).at_most(1.0)
            level = levels.spread(q - 1)
            return [low.where("<=", limit, (levels.spread(q) - level) * share + level, held[0])]

        (under,) = code.loop(1, self._quantiles, [under], between)
        under = read(self._quantiles - 1).where("<=", limit, 1.0, under)
        return self._above.where(">", 0.0, code.constant(1.0) - under, under)
