"""Interpretable multi-head attention (Lim et al., 2021, section 4.4) of the horizon to a window, as vector code.

An engine's operators write the weights of all heads to memory (1.2 MB a window) and read them again, and its matrix
products are idle with four units a head. Here a weight lives in a register: queries stand side by side in the lanes,
and keys pass by, twice: for the largest score, then for the sums. Padding is not looked at. Both times a score is the
same to rounding, so scores must be below some 1e9; queries and keys come of a layer norm, those of the model that ships
give at most 144.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from models.network_shape import WIDEST
from models.vector_code import LEAST, Array, Code, Floats, Index

_VECTORS = 2  # queries at a time: their scores and sums fit the registers
_UNITS = 8  # units of a value at a time: the same


@dataclass(frozen=True, slots=True)
class Attention:
    """Sizes, and arrays of one window.

    Attributes:
        heads, size: size units a head. encoder, horizon: steps.
        query: [heads x size, columns] by step of the horizon, scaled; what is beyond it means nothing.
        key: [steps, heads x size]. value: [steps, size]. Both padded.
        known: steps of the encoder that are not padding.
        into: [size up to a whole turn, columns] the mean over heads of what each makes of the values that they share.
    """

    heads: int
    size: int
    encoder: int
    horizon: int
    query: Array
    key: Array
    value: Array
    known: Index
    into: Array


def columns(horizon: int) -> int:
    """Queries with those that fill the last turn."""
    return -(-horizon // (_VECTORS * WIDEST)) * _VECTORS * WIDEST


def attend(code: Code, attention: Attention) -> None:
    """A step of the horizon attends to the window and to the steps of the horizon before it."""
    several = min(attention.size, _UNITS)

    def some(first: Index) -> None:
        code.each(0, attention.size, lambda unit: _Queries(code, attention, first, unit).all_heads(), several)

    code.each(0, attention.horizon, some, _VECTORS * code.lanes)


class _Queries:
    """Some vectors of queries, and some of a value's units."""

    def __init__(self, code: Code, attention: Attention, first: Index, unit: Index) -> None:
        """``first``: the step of the horizon with which the vectors begin. ``unit``: the first one."""
        self._code, self._its, self._first = code, attention, first
        self._places = [first + vector * code.lanes for vector in range(_VECTORS)]
        self._units = [unit + i for i in range(min(attention.size, _UNITS))]
        lane = code.constant(list(range(code.lanes)))
        self._at = [code.number(place) + lane for place in self._places]

    def all_heads(self) -> None:
        """The mean over heads."""
        code, several = self._code, len(self._units)
        nothing = [code.constant(0.0)] * (len(self._places) * several)
        total = code.loop(0, self._its.heads, nothing, self._head)
        for i, numbers in enumerate(total):
            place = self._places[i // several]
            self._its.into[self._units[i % several]].write(place, numbers * (1 / self._its.heads))

    def _head(self, head: Index, total: list[Floats]) -> list[Floats]:
        """``total`` and what this head adds: its weights' mean of the values, unit by unit of each vector."""
        code, several = self._code, len(self._units)
        score = self._scores(head)

        def largest(step: Index, held: list[Floats], *, ahead: bool) -> list[Floats]:
            found = score(step, [code.constant(0.0)] * len(held), ahead=ahead)
            return [score.at_least(most) for score, most in zip(found, held, strict=True)]

        most = self._keys([code.constant(LEAST)] * len(self._places), largest)
        least = [-m for m in most]

        def sums(step: Index, held: list[Floats], *, ahead: bool) -> list[Floats]:
            values = [self._its.value[step].spread(unit) for unit in self._units]
            made = []
            for j, exponent in enumerate(score(step, least, ahead=ahead)):
                weight = code.exp2(exponent)  # at most 1, but for rounding
                mine = held[j * (several + 1) : (j + 1) * (several + 1)]
                made += [weight * v + sum_ for v, sum_ in zip(values, mine, strict=False)]
                made.append(mine[several] + weight)
            return made

        held = self._keys([code.constant(0.0)] * (len(self._places) * (several + 1)), sums)
        shares = [code.inverse(held[j * (several + 1) + several]) for j in range(len(self._places))]
        return [
            held[j * (several + 1) + i] * share + total[j * several + i]
            for j, share in enumerate(shares)
            for i in range(several)
        ]

    def _scores(self, head: Index) -> Callable[..., list[Floats]]:
        """A function that adds the scores of a key, to base 2, to a number for each vector of queries."""
        code, size, key = self._code, self._its.size, self._its.key
        first = head * size
        few = size <= _UNITS
        unit = [self._its.query[first + i] for i in range(size)] if few else []
        held = [[row.read(place) * math.log2(math.e) for row in unit] for place in self._places]

        def few_units(step: Index, start: list[Floats]) -> list[Floats]:
            keys = [key[step].spread(first + i) for i in range(size)]
            found = []
            for vector, score in zip(held, start, strict=True):
                for q, k in zip(vector, keys, strict=True):
                    score = q * k + score  # noqa: PLW2901  a sum
                found.append(score)
            return found

        def many_units(step: Index, start: list[Floats]) -> list[Floats]:
            def add(i: Index, scores: list[Floats]) -> list[Floats]:
                k = key[step].spread(i) * math.log2(math.e)
                return [self._its.query[i].read(p) * k + s for p, s in zip(self._places, scores, strict=True)]

            return code.loop(first, first + size, start, add)

        def found(step: Index, start: list[Floats], *, ahead: bool) -> list[Floats]:
            scores = (few_units if few else many_units)(step, start)
            return self._visible(step, scores) if ahead else scores

        return found

    def _keys(self, state: list[Floats], body: Callable[..., list[Floats]]) -> list[Floats]:
        """A loop over the keys that these queries see: the window's, then those ahead that all see, then some see."""
        encoder = self._its.encoder
        first = self._first + encoder
        last = (first + _VECTORS * self._code.lanes).at_most(encoder + self._its.horizon)
        for start, stop, ahead in ((0, self._its.known, False), (encoder, first, False), (first, last, True)):
            state = self._code.loop(start, stop, state, partial(body, ahead=ahead))
        return state

    def _visible(self, step: Index, scores: list[Floats]) -> list[Floats]:
        """Those of queries after the step."""
        ahead = self._code.number(step - self._its.encoder)
        return [at.where(">", ahead, score, LEAST) for at, score in zip(self._at, scores, strict=True)]
