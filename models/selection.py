"""Variable selection (Lim et al., 2021, section 4.2) for all variables of a part at once.

A variable that takes few values is a table: its little network runs on the rows, and steps look their row up. The
others go through one batched product. The weights' flattened network is linear in each variable before its first
activation, so each contributes rows, or a slope, to one sum.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor

from models.dropout import locked_dropout
from models.gates import add_norm, after_first
from models.network_input import NetworkInput, Table


@dataclass(frozen=True, slots=True)
class _Part:
    """The variables of one selection.

    Attributes:
        selection: the library's module. names: its variables, in its order.
        tables: those that take few values, as prescaled rows [rows, size] and the row of each step [B, time].
        continuous: the others. reals: [B, time, continuous] their values.
    """

    selection: Any
    names: list[str]
    tables: dict[str, Table]
    continuous: list[str]
    reals: Tensor

    def places(self, names: list[str]) -> list[int]:
        return [self.names.index(name) for name in names]

    def joined(self, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """A value of each row of each table, as one table, and rows [B x time, tables] into it."""
        offsets, total = [], 0
        for value in values:
            offsets.append(total)
            total += len(value)
        rows = torch.stack([t.rows + o for t, o in zip(self.tables.values(), offsets, strict=True)], dim=-1)
        return torch.cat(values), rows.flatten(0, 1)


def select(
    network: TemporalFusionTransformer, selection: Any, inputs: NetworkInput, part: slice, context: Tensor | None
) -> Tensor:
    """[B, time, hidden] the variable selection of the static inputs, the encoder's or the decoder's.

    ``context``: [B, 1, hidden].
    """
    own = _part(network, selection, inputs, part)
    shape = (*own.reals.shape[:2], -1)
    if len(own.names) == 1:  # the library then weighs nothing
        if not own.tables:
            return _embed(own)[0].reshape(shape)
        (table,) = own.tables.values()
        return F.embedding(table.rows, table_rows(selection.single_variable_grns[own.names[0]], table.values))
    weights = _weights(own, context)
    out = torch.zeros((), device=weights.device)
    if own.tables:
        values, rows = own.joined(
            [table_rows(selection.single_variable_grns[n], t.values) for n, t in own.tables.items()]
        )
        share = weights[:, own.places(list(own.tables))]
        out = F.embedding_bag(rows, values, mode="sum", per_sample_weights=share)
    for embedded, place in zip(_embed(own) if own.continuous else (), own.places(own.continuous), strict=True):
        out = out + embedded * weights[:, place, None]
    return out.reshape(shape)


def _part(network: TemporalFusionTransformer, selection: Any, inputs: NetworkInput, part: slice) -> _Part:
    names = list(selection.input_sizes)
    cats, tables = network.hparams.x_categoricals, {}
    for name in names:
        if name in cats:
            weight = network.input_embeddings.embeddings[name].weight
            tables[name] = Table(weight, inputs.cat[:, part, cats.index(name)])
        elif name in inputs.tables:
            table = inputs.tables[name]
            tables[name] = Table(selection.prescalers[name](table.values[:, None]), table.rows[:, part])
    continuous = [name for name in names if name not in tables]
    columns = [network.hparams.x_reals.index(name) for name in continuous]
    return _Part(selection, names, tables, continuous, inputs.cont[:, part, columns])


def _weights(part: _Part, context: Tensor | None) -> Tensor:
    """[B x time, variables] how much each variable counts: the softmax of the flattened network."""
    grn, names, selection = part.selection.flattened_grn, part.names, part.selection
    resample = getattr(grn, "resample_norm", None)
    into = torch.cat([grn.fc1.weight.T, resampling(resample, grn.input_size, len(names))], dim=1)
    sizes = [selection.input_sizes[n] for n in names]
    shares = dict(zip(names, torch.split(into, sizes), strict=True))
    flat = F.pad(grn.fc1.bias, (0, len(names)))
    if part.continuous:
        scalers = [(selection.prescalers[n], shares[n]) for n in part.continuous]
        flat = flat + torch.stack([scaler.bias @ share for scaler, share in scalers]).sum(0)
        slopes = torch.stack([scaler.weight[:, 0] @ share for scaler, share in scalers])
        flat = torch.addmm(flat, part.reals.flatten(0, 1), slopes)
    if part.tables:
        values, rows = part.joined([t.values @ shares[n] for n, t in part.tables.items()])
        flat = flat + F.embedding_bag(rows, values, mode="sum")
    flat = flat.reshape(*part.reals.shape[:2], -1)
    first, skip = torch.split(flat, [grn.fc1.out_features, len(names)], dim=-1)
    if resample is not None:
        skip = resample.norm(skip)
    return add_norm(grn.gate_norm.add_norm, after_first(grn, first, context), skip).softmax(-1).flatten(0, 1)


def resampling(resample: Any, size: int, to: int) -> Tensor:
    """[size, to] the linear part of the library's ResampleNorm; the identity where there is none."""
    if resample is None:
        return torch.eye(size)
    matrix = F.interpolate(
        torch.eye(size, device=resample.norm.weight.device)[None], to, mode="linear", align_corners=True
    )
    scale = torch.sigmoid(resample.mask) * 2 if resample.trainable_add else 1.0
    return matrix[0] * scale


def _embed(part: _Part) -> Tensor:
    """[variables, B x time, hidden] each continuous input through its own network, all in one product."""
    grns = [part.selection.single_variable_grns[n] for n in part.continuous]
    x = part.reals.flatten(0, 1).T.unsqueeze(-1)  # [variables, n, 1]
    slope = torch.stack([part.selection.prescalers[n].weight[:, 0] for n in part.continuous])
    shift = torch.stack([part.selection.prescalers[n].bias for n in part.continuous])

    def stack(get: Any) -> Tensor:
        return torch.stack([get(g) for g in grns])

    first = stack(lambda g: g.fc1.weight)
    a = torch.einsum("coi,ci->co", first, slope)
    b = torch.einsum("coi,ci->co", first, shift) + stack(lambda g: g.fc1.bias)
    hidden = F.elu(torch.addcmul(b[:, None], x, a[:, None]))
    hidden = torch.baddbmm(stack(lambda g: g.fc2.bias)[:, None], hidden, stack(lambda g: g.fc2.weight).transpose(1, 2))
    glu = grns[0].gate_norm.glu
    hidden = locked_dropout(hidden.reshape(-1, part.reals.shape[1], hidden.shape[-1]), glu.dropout).view_as(hidden)
    weight = stack(lambda g: g.gate_norm.glu.fc.weight).transpose(1, 2)
    hidden = F.glu(torch.baddbmm(stack(lambda g: g.gate_norm.glu.fc.bias)[:, None], hidden, weight), dim=-1)
    skip = _affine_skip(grns, x, slope, shift)
    norms = [g.gate_norm.add_norm.norm for g in grns]
    normed = F.layer_norm(hidden + skip, hidden.shape[-1:], eps=norms[0].eps)
    return torch.addcmul(
        torch.stack([n.bias for n in norms])[:, None], normed, torch.stack([n.weight for n in norms])[:, None]
    )


def _affine_skip(grns: list[Any], x: Tensor, slope: Tensor, shift: Tensor) -> Tensor:
    """[variables, n, hidden] the skip of a scalar: affine in it, so its layer norm needs two means a variable."""
    resamples: list[Any] = [getattr(g, "resample_norm", None) for g in grns]
    if resamples[0] is None:
        return torch.addcmul(shift[:, None], x, slope[:, None])
    size, hidden = slope.shape[1], grns[0].output_size
    into = torch.stack([resampling(r, size, hidden) for r in resamples])
    u, v = (torch.einsum("ci,cio->co", t, into) for t in (slope, shift))
    u, v = u - u.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    vv, uv, uu = ((p * q).mean(1)[:, None, None] for p, q in ((v, v), (u, v), (u, u)))
    inverse = torch.rsqrt(uu * x * x + 2 * uv * x + vv + resamples[0].norm.eps)
    gain = torch.stack([r.norm.weight for r in resamples])
    bias = torch.stack([r.norm.bias for r in resamples])
    return (x * inverse) * (u * gain)[:, None] + inverse * (v * gain)[:, None] + bias[:, None]


def table_rows(module: Any, values: Tensor) -> Tensor:
    """[rows, hidden] a table's rows through the variable's network; of categories that is a ResampleNorm."""
    if not hasattr(module, "fc1"):
        resampled: Tensor = module(values)
        return resampled
    resample = getattr(module, "resample_norm", None)
    x = values.unsqueeze(1)
    skip = x if resample is None else resample(x)
    return add_norm(module.gate_norm.add_norm, after_first(module, module.fc1(x), None), skip).squeeze(1)
