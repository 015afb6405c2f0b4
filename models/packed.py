"""A folded network's numbers as the network kernel takes them: transposed, padded with zeros, in one piece."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor

from models.folded import Folded
from models.folded_gates import Norm
from models.folded_selection import FoldedSelection, Scalars
from models.layout import Layout, Scaling, clock
from models.network_shape import CONTEXTS, NetworkShape, Places, SelectionShape, padded
from models.network_size import NetworkSize


def pack(
    layout: Layout, scaling: Scaling, size: NetworkSize, network: TemporalFusionTransformer
) -> tuple[NetworkShape, NDArray[np.float32]]:
    """The network's sizes, and its weights as ``shape.weights()`` says."""
    folded = Folded(layout, scaling, network.eval(), full=True)
    variables = _variables(layout)
    selections = {
        "static": FoldedSelection(network, network.static_variable_selection, folded.tables, sequence=True),
        "past": folded.past,
        "future": folded.future,
    }
    shape = _shape(layout, size, {name: _selection_shape(s, variables[name]) for name, s in selections.items()})
    with torch.no_grad():
        arrays = _Arrays(shape)
        arrays.features(layout, scaling)
        arrays.trunk(folded)
        for name, selection in selections.items():
            arrays.selection(name, selection, variables[name], scaling.constant)
    return shape, Places(shape.weights()).pack({name: array.numpy() for name, array in arrays.held.items()})


def _shape(layout: Layout, size: NetworkSize, selections: dict[str, SelectionShape]) -> NetworkShape:
    settings = layout.contract.settings
    tables, others = clock(layout)
    return NetworkShape(
        hidden=size.hidden_size, heads=size.attention_head_size, layers=size.lstm_layers,
        encoder=settings.encoder_steps, horizon=settings.horizon_steps, quantiles=len(settings.quantiles),
        targets=len(layout.targets), covariates=len(layout.covariates), categories=len(layout.categories),
        statics=len(layout.statics), lagged=bool(layout.lags), clock_tables=len(tables), clock_others=len(others),
        **selections,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Variables:
    """A selection's variables in the kernel's order: those that are tables, and the others."""

    tabled: list[str]
    continuous: list[str]


def _variables(layout: Layout) -> dict[str, _Variables]:
    tables, others = clock(layout)
    known = [*others, *layout.lags]
    return {
        "static": _Variables(layout.statics, layout.static_reals),
        "past": _Variables([*tables, "relative_time_idx", *layout.categories], [*known, *layout.observed]),
        "future": _Variables([*tables, "relative_time_idx"], known),
    }


def _selection_shape(selection: FoldedSelection, variables: _Variables) -> SelectionShape:
    tables = dict(zip(selection.tabled, selection.tables(), strict=True))
    return SelectionShape(
        tables=tuple(len(tables[name]) for name in variables.tabled),
        continuous=len(variables.continuous),
        width=0 if selection.single else selection.width,
        normed=not selection.single and selection.skip_norm is not None,
        inner=_scalars(selection)[0].width if variables.continuous else 1,
    )


def _scalars(selection: FoldedSelection) -> list[Scalars]:
    return [scalars for scalars in selection.scalars if isinstance(scalars, Scalars)]


class _Arrays:
    """Zeros, into which a network's numbers are put."""

    def __init__(self, shape: NetworkShape) -> None:
        self._shape = shape
        self.held = {name: torch.zeros(sizes) for name, sizes in shape.weights().items()}

    def _put(self, name: str, values: Tensor, *at: int) -> None:
        """The first numbers of an array, or of what ``at`` picks."""
        self.held[name][at][tuple(slice(n) for n in values.shape)] = values

    def _linear(self, name: str, weight: Tensor, bias: Tensor | None, parts: int, *at: int) -> None:
        """``weight``: [parts x outputs, inputs]; each part is padded by itself."""
        whole, own = self.held[f"{name}.weight"][at], weight.T.reshape(weight.shape[1], parts, -1)
        whole.view(len(whole), parts, -1)[:, :, : own.shape[2]] = own
        if bias is not None:
            self.held[f"{name}.bias"][at].view(parts, -1)[:, : own.shape[2]] = bias.reshape(parts, -1)

    def _norm(self, name: str, norm: Norm) -> None:
        self._put(f"{name}.gain", norm.weight)
        self._put(f"{name}.shift", norm.bias)

    def trunk(self, folded: Folded) -> None:
        """All but the selections."""
        attention = folded.attention
        self._linear("query", attention.q_weight, attention.q_bias, 1)
        self._linear("key", attention.k_weight, attention.k_bias, 1)
        self._linear("value", attention.value.weight, attention.value.bias, 1)
        for name in ("read", "write"):
            lstm = getattr(folded, name)
            for layer in range(self._shape.layers):
                bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
                self._linear(f"{name}_{layer}_input", getattr(lstm, f"weight_ih_l{layer}"), bias, 4)
                self._linear(f"{name}_{layer}_state", getattr(lstm, f"weight_hh_l{layer}"), None, 4)
        for name in ("local", "attended", "last"):
            gate = getattr(folded, name)
            # Attention's own last layer is linear too.
            weight = gate.gate.weight @ attention.out.weight if name == "attended" else gate.gate.weight
            self._linear(name, weight, gate.gate.bias, 2)
            self._norm(name, gate.norm)
        for name in ("enrich", "feed", *CONTEXTS):
            grn = getattr(folded, name)
            self._linear(f"{name}_first", grn.first.weight, grn.first.bias, 1)
            self._linear(name, grn.gate_weight, grn.gate_bias, 2)
            self._norm(name, grn.norm)
        # The bias is that of the layer which this one is added to.
        enrich: Any = folded.enrich
        self._linear("enrich_context", enrich.context.weight, enrich.first.bias, 1)
        self._linear("out", folded.out_weight, folded.out_bias, 1)
        self._put("ones", torch.ones(self._shape.hidden))

    def features(self, layout: Layout, scaling: Scaling) -> None:
        """The scalers, by lane of an input."""
        targets, covariates = layout.targets, [scaling.covariates[name] for name in layout.covariates]
        values = {
            "targets": [1.0] * len(targets),
            "shift": [*([0.0] * len(targets)), *(mean for mean, _ in covariates)],
            "inverse": [*([0.0] * len(targets)), *(1 / deviation for _, deviation in covariates)],
            "floor": [scaling.floor[name] for name in targets],
            "level": [scaling.level[name] for name in targets],
            "inverse_spread": [1 / scaling.spread[name] for name in targets],
        }
        for name, numbers in values.items():
            self._put(name, torch.tensor(numbers, dtype=torch.float32))

    def selection(
        self, name: str, selection: FoldedSelection, variables: _Variables, constant: Collection[str]
    ) -> None:
        """One of the selections; inputs that are ``constant`` are fed as 0."""
        self._put(f"{name}.ones", torch.ones(self._shape.hidden))
        tables = dict(zip(selection.tabled, selection.tables(), strict=True))
        if tables:
            self._put(f"{name}.table", torch.cat([tables[v] for v in variables.tabled]))
        scalars = dict(zip(selection.continuous, _scalars(selection), strict=True))
        for c, variable in enumerate(variables.continuous):
            self._scalar(name, c, scalars[variable], 0.0 if variable in constant else 1.0)
        if not selection.single:
            self._weighing(name, selection, variables, constant)

    def _scalar(self, name: str, c: int, scalar: Scalars, counts: float) -> None:
        """The little network of a continuous variable."""
        for what, values in (
            ("slope", scalar.slope * counts), ("intercept", scalar.shift), ("skip.slope", scalar.skip_slope * counts),
            ("skip.intercept", scalar.skip_shift), ("gate.gain", scalar.norm_weight), ("gate.shift", scalar.norm_bias),
        ):  # fmt: skip
            self._put(f"{name}.{what}", values.flatten(), c)
        self._linear(f"{name}.gate", scalar.gate_weight[0].T, scalar.gate_bias.flatten(), 2, c)
        variance = [torch.zeros(1), torch.zeros(1), torch.ones(1)]
        if scalar.resampled:
            self._put(f"{name}.skip.bias", scalar.skip_bias.flatten(), c)
            variance = [scalar.skip_square * counts, scalar.skip_cross * counts, scalar.skip_constant]
        self._put(f"{name}.skip.variance", torch.cat([part.flatten() for part in variance]), c)

    def _weighing(
        self, name: str, selection: FoldedSelection, variables: _Variables, constant: Collection[str]
    ) -> None:
        """The layers that weigh variables."""
        order = [selection.names.index(n) for n in (*variables.tabled, *variables.continuous)]

        def flat(rows: Tensor) -> Tensor:
            first, skip = rows[..., : selection.width], rows[..., selection.width :][..., order]
            return torch.cat([_padded(first), _padded(skip)], dim=-1)

        self._put(f"{name}.flat", flat(selection.flat))
        if variables.tabled:
            tables = dict(zip(selection.tabled, selection.flat_tables(), strict=True))
            self._put(f"{name}.table_flat", flat(torch.cat([tables[v] for v in variables.tabled])))
        for c, variable in enumerate(variables.continuous):
            if variable not in constant:
                self._put(f"{name}.flat_slope", flat(selection.slopes[selection.continuous.index(variable)]), c)
        if selection.context is not None:  # the bias is what it is added to
            self._linear(f"{name}.context", selection.context.weight, selection.flat[: selection.width], 1)
        both = [*order, *(len(order) + place for place in order)]
        self._linear(f"{name}.weigh", selection.gate_weight[both], selection.gate_bias[both], 2)
        for what, norm in (("weigh", selection.norm), ("flat", selection.skip_norm)):
            if norm is not None:
                self._put(f"{name}.{what}.gain", norm.weight[order])
                self._put(f"{name}.{what}.shift", norm.bias[order])
            self._put(f"{name}.{what}.ones", torch.ones(len(order)))


def _padded(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, padded(values.shape[-1]) - values.shape[-1]))
