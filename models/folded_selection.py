"""Variable selection (Lim et al., 2021, section 4.2) with everything folded that a trained network leaves constant.

A variable that takes few values is a table of rows: its little network ran on them once. The others are scalars: the
linear prescaler folds into the first layer, the second layer into the gate, and the skip is affine in the scalar.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor, nn

from models.folded_gates import Norm, fold, folded
from models.selection import resampling, table_rows


class FoldedSelection(nn.Module):
    """One selection of the network: of the static inputs, the encoder's or the decoder's.

    Attributes:
        names: its variables. tabled: those that are tables. continuous: the others. All in the network's order.
        single: it has one variable, which the library does not weigh.
        width: of the layer that weighs them. context: adds to that layer. skip_norm: of the skip beside it, if any.
        scalars: the continuous variables' little networks, one each where it is of many steps.
    """

    flat: Tensor
    slopes: Tensor
    gate_weight: Tensor
    gate_bias: Tensor

    def __init__(
        self, network: TemporalFusionTransformer, selection: Any, tables: Mapping[str, Tensor], *, sequence: bool
    ) -> None:
        """Fold it.

        Args:
            network: trained.
            selection: one of its variable selections.
            tables: by variable that takes few values, [rows] the values; of a categorical one the embedding row (int64)
                of each of the contract's symbols.
            sequence: of many steps; else of one.
        """
        super().__init__()
        self.names = list(selection.input_sizes)
        self.tabled = [name for name in self.names if name in tables]
        self.continuous = [name for name in self.names if name not in tables]
        values = [self._values(network, selection, name, tables[name]) for name in self.tabled]
        self.single = len(self.names) == 1
        if not self.single:
            self._fold_weights(selection, values)
        for i, (name, value) in enumerate(zip(self.tabled, values, strict=True)):
            folded(self, f"rows_{i}", table_rows(selection.single_variable_grns[name], value))
        self._sequence = sequence
        scalers = [(selection.prescalers[n], selection.single_variable_grns[n]) for n in self.continuous]
        groups = [[scaler] for scaler in scalers] if sequence else [scalers] if scalers else []
        self.scalars = nn.ModuleList(Scalars(*map(list, zip(*group, strict=True))) for group in groups)

    @staticmethod
    def _values(network: TemporalFusionTransformer, selection: Any, name: str, values: Tensor) -> Tensor:
        if not values.is_floating_point():
            embedded: Tensor = network.input_embeddings.embeddings[name].weight[values]
            return embedded
        prescaled: Tensor = selection.prescalers[name](values[:, None])
        return prescaled

    def _fold_weights(self, selection: Any, values: list[Tensor]) -> None:
        """The flattened network is linear up to its first activation: each variable adds a row, or a slope."""
        grn, names = selection.flattened_grn, self.names
        resample = getattr(grn, "resample_norm", None)
        into = torch.cat([grn.fc1.weight.T, resampling(resample, grn.input_size, len(names))], dim=1)
        shares = dict(zip(names, torch.split(into, [selection.input_sizes[n] for n in names]), strict=True))
        self.width = grn.fc1.out_features
        flat = F.pad(grn.fc1.bias, (0, len(names)))
        scalers = [(selection.prescalers[n], shares[n]) for n in self.continuous]
        for scaler, share in scalers:
            flat = flat + scaler.bias @ share
        folded(self, "flat", flat)
        if scalers:
            folded(self, "slopes", torch.stack([scaler.weight[:, 0] @ share for scaler, share in scalers]))
        for i, (name, value) in enumerate(zip(self.tabled, values, strict=True)):
            folded(self, f"flat_{i}", value @ shares[name])
        self.context = getattr(grn, "context", None)
        self.skip_norm = None if resample is None else Norm(resample.norm)
        fold(self, grn)
        self.norm = Norm(grn.gate_norm.add_norm.norm)

    def tables(self) -> list[Tensor]:
        """[rows, hidden] of each variable that is a table."""
        return [getattr(self, f"rows_{i}") for i in range(len(self.tabled))]

    def flat_tables(self) -> list[Tensor]:
        """[rows, width + variables] what it adds to the layer that weighs variables, and to its skip."""
        return [getattr(self, f"flat_{i}") for i in range(len(self.tabled))]

    def forward(self, reals: Tensor | None, rows: Mapping[str, Tensor], context: Tensor | None) -> Tensor:
        """[B, time, hidden].

        Args:
            reals: [B, time, continuous]; None where there are none.
            rows: [B or 1, time] of each table.
            context: [B, 1, hidden] for the weights, where the selection has one.
        """
        parts: dict[str, Tensor] = {
            name: F.embedding(rows[name], table) for name, table in zip(self.tabled, self.tables(), strict=True)
        }
        if reals is not None:
            parts |= self._embed(reals)
        if self.single:
            return parts[self.names[0]]
        weights = self._weights(reals, rows, context)
        weighed = (parts[name] * weights[..., place : place + 1] for place, name in enumerate(self.names))
        return reduce(torch.add, weighed)

    def _embed(self, reals: Tensor) -> dict[str, Tensor]:
        """[B, time, hidden] of each continuous variable."""
        if self._sequence:
            embedded = [scalars(reals[..., c : c + 1]) for c, scalars in enumerate(self.scalars)]
        else:
            embedded = list(self.scalars[0](reals.permute(2, 0, 1)))
            embedded = [one[:, None] for one in embedded]
        return dict(zip(self.continuous, embedded, strict=True))

    def _weights(self, reals: Tensor | None, rows: Mapping[str, Tensor], context: Tensor | None) -> Tensor:
        """[B, time, variables] how much each variable counts."""
        flat = self.flat
        for name, table in zip(self.tabled, self.flat_tables(), strict=True):
            flat = flat + F.embedding(rows[name], table)
        if reals is not None:
            flat = flat + reals @ self.slopes
        first, skip = flat[..., : self.width], flat[..., self.width :]
        if context is not None and self.context is not None:
            first = first + self.context(context)
        if self.skip_norm is not None:
            skip = self.skip_norm(skip)
        gated = F.glu(F.linear(F.elu(first), self.gate_weight, self.gate_bias), dim=-1)
        weights: Tensor = self.norm(gated + skip)
        return weights.softmax(-1)


class Scalars(nn.Module):
    """The little networks of continuous variables, each [..., 1] to [..., hidden], as one batched product.

    For many variables of one step; of a sequence each network by itself keeps its numbers in the cache.
    """

    slope: Tensor
    shift: Tensor
    gate_weight: Tensor
    gate_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    skip_slope: Tensor
    skip_shift: Tensor
    skip_bias: Tensor
    skip_square: Tensor
    skip_cross: Tensor
    skip_constant: Tensor

    def __init__(self, prescalers: list[Any], grns: list[Any]) -> None:
        super().__init__()
        slopes, shifts = [p.weight[:, 0] for p in prescalers], [p.bias for p in prescalers]
        self._stack("slope", [g.fc1.weight @ slope for g, slope in zip(grns, slopes, strict=True)])
        self._stack("shift", [g.fc1.weight @ s + g.fc1.bias for g, s in zip(grns, shifts, strict=True)])
        gates = [g.gate_norm.glu.fc for g in grns]
        weights = torch.stack([f.weight @ g.fc2.weight for f, g in zip(gates, grns, strict=True)])
        folded(self, "gate_weight", weights.transpose(1, 2))
        self._stack("gate_bias", [f.weight @ g.fc2.bias + f.bias for f, g in zip(gates, grns, strict=True)])
        norms = [g.gate_norm.add_norm.norm for g in grns]
        self._stack("norm_weight", [n.weight for n in norms])
        self._stack("norm_bias", [n.bias for n in norms])
        self._eps = norms[0].eps
        self._fold_skips(grns, slopes, shifts)

    def _fold_skips(self, grns: list[Any], slopes: list[Tensor], shifts: list[Tensor]) -> None:
        resamples: list[Any] = [getattr(g, "resample_norm", None) for g in grns]
        self.resampled = resamples[0] is not None
        if not self.resampled:
            self._stack("skip_slope", slopes)
            self._stack("skip_shift", shifts)
            return
        # The layer norm of u x + v, centred: its variance is a polynomial in x.
        into = [resampling(r, len(slopes[0]), g.output_size) for r, g in zip(resamples, grns, strict=True)]
        u = torch.stack([slope @ matrix for slope, matrix in zip(slopes, into, strict=True)])
        v = torch.stack([shift @ matrix for shift, matrix in zip(shifts, into, strict=True)])
        u, v = u - u.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
        gain = torch.stack([r.norm.weight for r in resamples])
        self._stack("skip_slope", list(u * gain))
        self._stack("skip_shift", list(v * gain))
        self._stack("skip_bias", [r.norm.bias for r in resamples])
        for name, product in (("square", u * u), ("cross", 2 * u * v), ("constant", v * v)):
            mean = product.mean(1) + (resamples[0].norm.eps if name == "constant" else 0.0)
            folded(self, f"skip_{name}", mean[:, None, None])

    @property
    def width(self) -> int:
        """Of the hidden layer."""
        return self.slope.shape[-1]

    def _stack(self, name: str, values: list[Tensor]) -> None:
        folded(self, name, torch.stack(values)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """[variables, n, hidden] of [variables, n, 1]; of a single variable [B, time, hidden] of [B, time, 1] too."""
        hidden = torch.matmul(F.elu(x * self.slope + self.shift), self.gate_weight) + self.gate_bias
        both = F.glu(hidden, dim=-1) + self._skip(x)
        return F.layer_norm(both, (both.shape[-1],), eps=self._eps) * self.norm_weight + self.norm_bias

    def _skip(self, x: Tensor) -> Tensor:
        if not self.resampled:
            return x * self.skip_slope + self.skip_shift
        inverse = torch.rsqrt(self.skip_square * x * x + self.skip_cross * x + self.skip_constant)
        return (x * inverse) * self.skip_slope + inverse * self.skip_shift + self.skip_bias
