"""Sizes of a network, and the places of its numbers in one piece of memory, for who packs and for who reads them."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schemas.fields import Strict

if TYPE_CHECKING:
    from models.vector_code import Array, Code

Shapes = dict[str, tuple[int, ...]]
WIDEST = 16  # float32 in the widest vector register of any CPU: rows are padded to a multiple of it
SELECTIONS = ("static", "past", "future")
CONTEXTS = ("context", "first_hidden", "first_cell", "enrichment")  # what the static inputs are made into


def padded(units: int) -> int:
    """So many numbers, and zeros that fill the last vector."""
    return -(-units // WIDEST) * WIDEST


class SelectionShape(Strict):
    """Sizes of a variable selection.

    Attributes:
        tables: rows of the table of each variable that takes few values. continuous: number of the other variables.
        width: of the hidden layer that weighs variables; 0 where there is but one, which is not weighed.
        normed: the skip beside that layer has a layer norm.
        inner: width of the hidden layer of a continuous variable.
    """

    tables: tuple[int, ...]
    continuous: int
    width: int
    normed: bool
    inner: int

    @property
    def variables(self) -> int:
        """Tables, then continuous ones."""
        return len(self.tables) + self.continuous

    @property
    def flat(self) -> int:
        """The hidden layer, padded, then the skip, padded."""
        return padded(self.width) + padded(self.variables)

    def weights(self, units: int) -> Shapes:
        """By array; matrices are [inputs, outputs], outputs padded."""
        rows = sum(self.tables)
        weights: Shapes = {
            "table": (rows, units),
            "ones": (units,),
            "flat": (self.flat,),  # what the layer begins with
            "slope": (self.continuous, padded(self.inner)),
            "intercept": (self.continuous, padded(self.inner)),
            "gate.weight": (self.continuous, self.inner, 2 * units),
            "gate.bias": (self.continuous, 2 * units),
            "gate.gain": (self.continuous, units),
            "gate.shift": (self.continuous, units),
            "skip.slope": (self.continuous, units),
            "skip.intercept": (self.continuous, units),
            "skip.bias": (self.continuous, units),
            "skip.variance": (self.continuous, 3),  # as a polynomial: of x squared, of x, constant
        }
        if self.width:
            variables = padded(self.variables)
            weights |= {
                "table_flat": (rows, self.flat),
                "flat_slope": (self.continuous, self.flat),
                "weigh.weight": (self.width, 2 * variables),
                "weigh.bias": (2 * variables,),
            }
            weights |= {
                f"{norm}.{name}": (variables,) for norm in ("weigh", "flat") for name in ("gain", "shift", "ones")
            }
        return weights


class NetworkShape(Strict):
    """Units are padded with zeros to whole vectors, see `padded`.

    Attributes:
        hidden: units. heads: of the attention. layers: of the LSTMs. encoder, horizon: steps. quantiles.
        targets, covariates, categories, statics: of the contract. lagged: each target's lag is an input.
        clock_tables, clock_others: calendar inputs that are tables, and that are not.
        static, past, future: the selections. Their tables come in this order: the calendar's, the relative time's,
        those of categories; or of statics. Their other variables: the calendar's, lags, targets and covariates; or the
        layout's static reals.
    """

    hidden: int
    heads: int
    layers: int
    encoder: int
    horizon: int
    quantiles: int
    targets: int
    covariates: int
    categories: int
    statics: int
    lagged: bool
    clock_tables: int
    clock_others: int
    static: SelectionShape
    past: SelectionShape
    future: SelectionShape

    @property
    def units(self) -> int:
        """Hidden units, padded."""
        return padded(self.hidden)

    @property
    def size(self) -> int:
        """Units of a head."""
        return self.hidden // self.heads

    @property
    def inputs(self) -> int:
        """Targets, then covariates."""
        return self.targets + self.covariates

    @property
    def lags(self) -> int:
        """Inputs that are lags."""
        return self.targets if self.lagged else 0

    @property
    def outputs(self) -> int:
        """Targets times quantiles, padded."""
        return padded(self.targets * self.quantiles)

    def weights(self) -> Shapes:
        """By array; matrices are [inputs, outputs], outputs padded. Layer norms have gains, shifts and ones."""
        units, hidden = self.units, self.hidden
        matrices = {
            "query": (hidden, padded(self.heads * self.size)),
            "key": (hidden, padded(self.heads * self.size)),
            "value": (hidden, padded(self.size)),
            "enrich_context": (hidden, units),
            "attended": (self.size, 2 * units),
            "out": (hidden, self.outputs),
        }
        residuals = ("enrich", "feed", *CONTEXTS)
        matrices |= {f"{name}_first": (hidden, units) for name in residuals}
        matrices |= dict.fromkeys((*residuals, "local", "last"), (hidden, 2 * units))
        for name in ("past", "future"):
            matrices[f"{name}.context"] = (hidden, padded(getattr(self, name).width))
        for layer in range(self.layers):
            for lstm in ("read", "write"):
                matrices |= {f"{lstm}_{layer}_{what}": (hidden, 4 * units) for what in ("input", "state")}
        shapes: Shapes = {}
        for name, shape in matrices.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
        for name in (*residuals, "local", "attended", "last"):
            shapes |= {f"{name}.gain": (units,), f"{name}.shift": (units,)}
        shapes["ones"] = (units,)
        inputs = padded(self.inputs)
        shapes |= dict.fromkeys(("targets", "shift", "inverse", "floor", "level", "inverse_spread"), (inputs,))
        for name in SELECTIONS:
            selection: SelectionShape = getattr(self, name)
            shapes |= {f"{name}.{array}": shape for array, shape in selection.weights(units).items()}
        return shapes


class Places:
    """Named arrays, one after another in one piece of memory."""

    def __init__(self, shapes: Shapes) -> None:
        """``shapes``: of each, float32."""
        self.shapes = shapes
        self._first: dict[str, int] = {}
        self.size = 0
        for name, shape in shapes.items():
            self._first[name] = self.size
            self.size += padded(math.prod(shape))  # so that vectors lie in one line of the cache

    def pack(self, arrays: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Those arrays in one.

        Raises:
            ValueError: there is one too many, too few or of another shape.
        """
        found = {name: array.shape for name, array in arrays.items()}
        if found != self.shapes:
            wrong = {name: (found.get(name), self.shapes.get(name)) for name in found.keys() | self.shapes.keys()}
            raise ValueError(f"shapes, found and wanted: { {n: s for n, s in wrong.items() if s[0] != s[1]} }")
        packed = np.zeros(self.size, np.float32)
        for name, first in self._first.items():
            packed[first : first + arrays[name].size] = arrays[name].ravel()
        return packed

    def array(self, code: "Code", memory: "Array", name: str) -> "Array":
        """One of them within that memory."""
        from models.vector_code import Array  # noqa: PLC0415  whoever packs compiles nothing

        return Array(code, memory.address(self._first[name]), *self.shapes[name][1:])
