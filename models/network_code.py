"""The network from raw windows to quantiles in the targets' units, as one function for the CPU at hand.

An engine runs a Temporal Fusion Transformer (Lim et al., 2021) as two hundred operators, each over all steps: half of
the time goes by in handing numbers from one to the next. Here a few steps pass through several layers while they lie in
the first-level cache, padding is not computed, and neither Python nor any library takes part.
"""

from collections.abc import Callable, Sequence
from functools import partial

from models.attention_code import Attention, attend, columns
from models.features_code import Window
from models.kernel import Kernel
from models.layer_code import Linear, LstmState, Norm, Numbers, Rows, elu, gate_norm, linear, lstm_step
from models.network_shape import CONTEXTS, WIDEST, NetworkShape, Places, SelectionShape, padded
from models.selection_code import Selection, Steps
from models.vector_code import Array, Code, Floats, Index, Positions

STEPS = 4  # at a time through the layers
WINDOWS = 2  # at a time through the LSTMs: while one's step waits for its numbers, the other's is computed


def turns(steps: int) -> int:
    """Steps and those that fill the last turn."""
    return -(-steps // STEPS) * STEPS


def scratch(shape: NetworkShape) -> Places:
    """Memory that the kernel needs: of windows that pass together, of one window, of steps that pass together."""
    units, heads, inputs = shape.units, padded(shape.heads * shape.size), padded(shape.inputs)
    steps = shape.encoder + shape.horizon + STEPS  # the last ones of a window may not fill a turn
    selections = shape.static, shape.past, shape.future
    flat, inner = (max(getattr(s, name) for s in selections) for name in ("flat", "inner"))
    choices = padded(variables(shape))
    reals = padded(max(s.continuous for s in selections)) + 2 * WIDEST  # what is written by vectors ends beyond it
    return Places({
        "inputs": (WINDOWS, steps, units), "states": (WINDOWS, steps, units), "cells": (WINDOWS, units),
        "hidden": (WINDOWS, units), "first_cell": (WINDOWS, units), "first_hidden": (WINDOWS, units),
        "enrichment": (WINDOWS, units), "center": (WINDOWS, shape.outputs), "scale": (WINDOWS, shape.outputs),
        "raw": (shape.encoder, inputs), "shift": (inputs,), "inverse": (inputs,), "size": (inputs,),
        "static": (1, units), "context": (1, units), "begin": (1, flat),
        "local": (steps, units), "enriched": (steps, units), "key": (steps, heads),
        "value": (steps, padded(shape.size)), "query": (heads, columns(shape.horizon)),
        "attended": (padded(shape.size), columns(shape.horizon + STEPS)), "asked": (STEPS, heads),
        "reals": (STEPS, reals), "flat": (STEPS, flat), "weights": (STEPS, choices), "skips": (STEPS, choices),
        "gates": (max(STEPS, WINDOWS), max(4 * units, 2 * choices)), "first": (STEPS, padded(max(units, inner))),
        "one": (STEPS, max(units, inputs)), "other": (STEPS, units), "out": (STEPS, shape.outputs),
    })  # fmt: skip


def network_kernel(shape: NetworkShape) -> Kernel:
    """Compile it, for rows that are windows. Its arguments, in this order.

    ``reals`` [B, encoder, inputs], ``codes`` [B, encoder, categories], ``statics`` [B, statics], ``lag`` [B, encoder +
    horizon, targets], ``lengths`` [B]: see `WindowBatch`.
    ``clock_rows`` [steps, tables], ``clock`` [steps, others]: rows in the calendar's tables, and its inputs that are no
    tables, of consecutive steps; ``first`` [B]: where among them a window's own steps begin.
    ``offsets`` [horizon up to a whole turn, outputs]: conformal ones, in the network's units.
    ``weights``: see `NetworkShape.weights`. ``scratch``: see `scratch`. ``places`` [STEPS, variables]: scratch too.
    ``result`` [B, horizon up to a whole turn, outputs].
    """
    code = Code("network", {
        "reals": (Array, (shape.encoder, shape.inputs)), "codes": (Positions, (shape.encoder, shape.categories)),
        "statics": (Positions, (shape.statics,)), "lag": (Array, (shape.encoder + shape.horizon, shape.targets)),
        "lengths": (Positions, ()), "clock_rows": (Positions, (shape.clock_tables,)),
        "clock": (Array, (shape.clock_others,)), "first": (Positions, ()), "offsets": (Array, (shape.outputs,)),
        "weights": (Array, ()), "scratch": (Array, ()), "places": (Positions, (variables(shape),)),
        "result": (Array, (turns(shape.horizon), shape.outputs)),
    })  # fmt: skip
    _Network(code, shape).windows()
    return code.compile()


def variables(shape: NetworkShape) -> int:
    """The most that a selection chooses from."""
    return max(s.variables for s in (shape.static, shape.past, shape.future))


class _Network:
    """The function being written."""

    def __init__(self, code: Code, shape: NetworkShape) -> None:
        self._code, self._shape = code, shape
        self._weights, self._scratch = Places(shape.weights()), scratch(shape)

    def _given(self, name: str) -> Array:
        return self._code.array(name)

    def _weight(self, name: str) -> Array:
        return self._weights.array(self._code, self._given("weights"), name)

    def _held(self, name: str) -> Array:
        return self._scratch.array(self._code, self._given("scratch"), name)

    def _rows(self, name: str, first: Index | int = 0, number: int = STEPS) -> Rows:
        return Rows(self._held(name).rows(first), number)

    def _linear(self, name: str, inputs: int | None = None, bias: Array | None = None) -> Linear:
        return Linear(
            self._weight(f"{name}.weight"), bias or self._weight(f"{name}.bias"), inputs or self._shape.hidden
        )

    def _norm(self, name: str) -> Norm:
        return Norm(
            self._weight(f"{name}.gain"), self._weight(f"{name}.shift"), self._weight("ones"), self._shape.hidden
        )

    def windows(self) -> None:
        """All of them, some at a time."""
        code = self._code

        def several(first: Index) -> None:
            def row(w: Index | int) -> Index:
                return (first + w).at_most(code.rows - 1)  # the last one again, if it is alone

            code.each(0, WINDOWS, lambda w: self._select(row(w), w))
            self._recur([row(w) for w in range(WINDOWS)])
            code.each(0, WINDOWS, lambda w: self._attend(row(w), w))

        code.each(0, code.rows, several, WINDOWS)

    def _select(self, row: Index, w: Index) -> None:
        """From raw numbers to the LSTMs' inputs, of all steps."""
        code, shape = self._code, self._shape
        window = Window(code, shape, row, self._weight, self._window_memory)
        window.begin()
        window.outputs(self._held("center")[w], self._held("scale")[w])
        self._static(window, w)
        places, reals = code.positions("places"), self._held("reals")
        for name, read, first, stop in (
            ("past", window.past, 0, window.known),
            ("future", window.future, shape.encoder, shape.horizon),
        ):
            self._context(name)

            def some(t: Index, name: str = name, read: Callable[..., None] = read, first: int = first) -> None:
                code.each(0, STEPS, lambda i: read(t + i, places[i], reals[i]))
                into = Rows(self._held("inputs")[w].rows(t + first), STEPS)
                self._selection(name, places, reals, into)

            code.each(0, stop, some, STEPS)

    def _window_memory(self, name: str) -> Array:
        return self._held("one")[0] if name == "one" else self._held(name)

    def _static(self, window: Window, w: Index) -> None:
        """What the static inputs are made into."""
        places, reals = self._code.positions("places"), self._held("reals")
        window.static(places[0], reals[0])
        self._begin("static", self._weight("static.flat"))
        static = Rows(self._held("static").rows(0), 1)
        self._selection("static", places, reals, static)
        for name in CONTEXTS:
            into = self._held("context") if name == "context" else self._held(name).rows(w)
            self._residual(name, None, static, Rows(into, 1))
        enrichment, first = Rows(self._held("enrichment").rows(w), 1), self._rows("first", number=1)
        linear(self._code, self._shape.units, [(enrichment.numbers(), self._linear("enrich_context"))], first)
        self._code.copy(self._shape.units, first.array[0], enrichment.array[0])

    def _begin(self, name: str, source: Array) -> None:
        sizes: SelectionShape = getattr(self._shape, name)
        self._code.copy(sizes.flat, source, self._held("begin")[0])

    def _context(self, name: str) -> None:
        """What a selection's weights begin with, in view of the static inputs."""
        sizes: SelectionShape = getattr(self._shape, name)
        self._begin(name, self._weight(f"{name}.flat"))
        if sizes.width:
            layer = self._linear(f"{name}.context")
            linear(
                self._code,
                padded(sizes.width),
                [(self._rows("context", number=1).numbers(), layer)],
                self._rows("begin", number=1),
            )

    def _selection(self, name: str, places: Positions, reals: Array, into: Rows) -> None:
        shape = self._shape
        weight, sizes = partial(self._selection_weight, name), getattr(shape, name)
        selection = Selection(self._code, sizes, shape.hidden, weight, self._held)
        selection.select(Steps(places, reals, self._held("begin")[0], into))

    def _selection_weight(self, selection: str, name: str) -> Array:
        return self._weight(f"{selection}.{name}")

    def _recur(self, rows: list[Index]) -> None:
        """Both LSTMs, layer by layer: the second goes on where the first one ended."""
        code, shape = self._code, self._shape
        inputs, states = self._held("inputs"), self._held("states")
        lengths = [code.positions("lengths").read(row) for row in rows]
        longest = lengths[0]
        for length in lengths[1:]:
            longest = longest.at_least(length)
        for layer in range(shape.layers):
            source = inputs if layer == 0 else states
            for w in range(WINDOWS):
                code.copy(shape.units, self._held("first_hidden")[w], self._held("hidden")[w])
                code.copy(shape.units, self._held("first_cell")[w], self._held("cells")[w])

            def read(t: Index, layer: int = layer, source: Array = source) -> None:
                self._lstm(f"read_{layer}", [source[w][t] for w in range(WINDOWS)], t, lengths)

            def write(t: Index, layer: int = layer, source: Array = source) -> None:
                self._lstm(f"write_{layer}", [source[w][t] for w in range(WINDOWS)], t, None)

            code.each(0, longest, read)
            code.each(shape.encoder, shape.encoder + shape.horizon, write)

    def _lstm(self, name: str, sources: list[Array], t: Index, lengths: list[Index] | None) -> None:
        """One step of all windows; of those that have ended nothing changes."""
        code, units = self._code, self._shape.units
        hidden, cells, gates = (self._held(name) for name in ("hidden", "cells", "gates"))
        layers = [
            ([source.spread for source in sources], self._linear(f"{name}_input")),
            ([hidden[w].spread for w in range(WINDOWS)], self._linear(f"{name}_state")),
        ]
        linear(code, 4 * units, layers, Rows(gates, WINDOWS))
        for w in range(WINDOWS):
            going = None if lengths is None else code.number(lengths[w] - t)
            lstm_step(code, gates[w], LstmState(cells[w], hidden[w], units), self._held("states")[w][t], going)

    def _attend(self, row: Index, w: Index) -> None:
        """From the LSTMs' outputs to quantiles."""
        code, shape = self._code, self._shape
        known = code.positions("lengths").read(row)
        code.each(0, known, lambda t: self._enrich(w, t), STEPS)
        code.each(shape.encoder, shape.encoder + shape.horizon, lambda t: self._enrich(w, t), STEPS)
        code.each(0, shape.horizon, self._ask, STEPS)
        query, key, value, into = (self._held(name) for name in ("query", "key", "value", "attended"))
        sizes = shape.heads, shape.size, shape.encoder, shape.horizon
        attend(code, Attention(*sizes, query, key, value, known, into))
        code.each(0, shape.horizon, lambda step: self._decide(row, w, step), STEPS)

    def _enrich(self, w: Index, t: Index) -> None:
        """Some steps' gate after the LSTM, enrichment, keys and values."""
        local, enriched = self._rows("local", t), self._rows("enriched", t)
        states, inputs = (Rows(self._held(name)[w].rows(t), STEPS) for name in ("states", "inputs"))
        self._gate("local", self._linear("local"), states.numbers(), inputs, local)
        self._residual("enrich", self._held("enrichment")[w], local, enriched)
        for name in ("key", "value"):
            outputs = self._weights.shapes[f"{name}.weight"][1]
            linear(self._code, outputs, [(enriched.numbers(), self._linear(name))], self._rows(name, t))

    def _gate(self, name: str, layer: Linear, rows: Sequence[Numbers], skips: Rows, into: Rows) -> None:
        """A gated linear unit of the rows, then the norm of it and the skip."""
        code, units = self._code, self._shape.units
        gates = self._rows("gates", number=into.number)
        linear(code, 2 * units, [(rows, layer)], gates)
        gate_norm(code, gates.array, skips.array, self._norm(name), into)

    def _residual(self, name: str, bias: Array | None, rows: Rows, into: Rows) -> None:
        """A gated residual network, its second layer folded into the gate."""
        first = self._rows("first", number=into.number)
        linear(self._code, self._shape.units, [(rows.numbers(), self._linear(f"{name}_first", bias=bias))], first)
        elu(self._code, self._shape.units, first)
        self._gate(name, self._linear(name), first.numbers(), rows, into)

    def _ask(self, step: Index) -> None:
        """Queries of some steps of the horizon, which will stand side by side."""
        shape, asked, query = self._shape, self._rows("asked"), self._held("query")
        enriched = self._rows("enriched", step + shape.encoder)
        linear(self._code, padded(shape.heads * shape.size), [(enriched.numbers(), self._linear("query"))], asked)

        def turned(i: Index) -> None:
            row = asked.array[i]
            self._code.each(0, shape.heads * shape.size, lambda unit: query[unit].copy(step + i, row, unit))

        self._code.each(0, STEPS, turned)

    def _decide(self, row: Index, w: Index, step: Index) -> None:
        """What some steps of the horizon make of what they attended to."""
        code, shape, attended = self._code, self._shape, self._held("attended")
        local, enriched = (self._rows(name, step + shape.encoder) for name in ("local", "enriched"))
        one, other, out = (self._rows(name) for name in ("one", "other", "out"))
        found: list[Numbers] = [partial(self._attended, attended, step + i) for i in range(STEPS)]
        self._gate("attended", self._linear("attended", shape.size), found, enriched, one)
        self._residual("feed", None, one, other)
        self._gate("last", self._linear("last"), other.numbers(), local, one)
        linear(code, shape.outputs, [(one.numbers(), self._linear("out"))], out)
        offsets, result = self._given("offsets"), self._given("result")[row]
        center, scale = self._held("center")[w], self._held("scale")[w]

        def denormalised(at: Index) -> None:
            for i in range(STEPS):
                x = out.array[i].read(at) + offsets[step + i].read(at)
                x = code.sinh(x)
                result[step + i].write(at, x * scale.read(at) + center.read(at))

        code.each(0, shape.outputs, denormalised, code.lanes)

    @staticmethod
    def _attended(attended: Array, step: Index, unit: Index) -> Floats:
        return attended[unit].spread(step)
