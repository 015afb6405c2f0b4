"""A trained Temporal Fusion Transformer as one graph from raw windows to quantiles, for inference.

It computes what ``models.forward`` does, restructured further: no dropout, constants folded, every shape fixed.
Attention heads share their values (Lim et al., 2021, section 4.4).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor, nn

from models.features import Features, pick, sinh
from models.folded_gates import FoldedGrn, GateNorm, folded
from models.folded_selection import FoldedSelection
from models.graph_inputs import graph_inputs
from models.layout import Layout, Scaling, clock

_HIDDEN = -1e9  # of what attention must not see; exp of it is 0 in float32
_SATURATED = 1e4  # see models.recurrence


class Folded(nn.Module):
    """Raw windows in, [B, targets, quantiles, horizon] in the targets' units out, before bounds and order."""

    at: Tensor
    keep_clock: Tensor
    out_weight: Tensor
    out_bias: Tensor

    def __init__(self, layout: Layout, scaling: Scaling, network: TemporalFusionTransformer, *, full: bool) -> None:
        """Fold the network; ``full``: for windows without padding, which need no mask.

        ``clock_tables``, ``clock``: see `clock`. ``inputs``: see `graph_inputs`.
        """
        super().__init__()
        settings = layout.contract.settings
        self._encoder, self._horizon = settings.encoder_steps, settings.horizon_steps
        self._n_targets = len(layout.targets)
        self._features = Features(layout, scaling)
        self.tables = _tables(layout, scaling)
        self.clock_tables, self.clock = clock(layout)
        self._categories, self._statics = layout.categories, layout.statics
        self.inputs = graph_inputs(layout, full=full)
        folded(self, "keep_clock", torch.tensor([float(n not in scaling.constant) for n in self.clock]))
        self._static = FoldedSelection(network, network.static_variable_selection, self.tables, sequence=False)
        self.past = FoldedSelection(network, network.encoder_variable_selection, self.tables, sequence=True)
        self.future = FoldedSelection(network, network.decoder_variable_selection, self.tables, sequence=True)
        self._orders = _orders(layout, self._static, self.past, self.future)
        for what, order in self._orders.items():
            folded(self, f"{what}_order", torch.tensor(order or [], dtype=torch.int64))
        self.context, self.first_hidden, self.first_cell, self.enrichment = (
            FoldedGrn(grn)
            for grn in (
                network.static_context_variable_selection,
                network.static_context_initial_hidden_lstm,
                network.static_context_initial_cell_lstm,
                network.static_context_enrichment,
            )
        )
        self.write = network.lstm_decoder
        self.read: Any = network.lstm_encoder if full else _PaddedLstm(network.lstm_encoder)
        self.local = GateNorm(network.post_lstm_gate_encoder, network.post_lstm_add_norm_encoder)
        self.enrich = FoldedGrn(network.static_enrichment)
        self.attention = _Attention(network.multihead_attn, self._encoder, self._horizon)
        after = network.post_attn_gate_norm
        self.attended = GateNorm(after.glu, after.add_norm)
        self.feed = FoldedGrn(network.pos_wise_ff)
        last = network.pre_output_gate_norm
        self.last = GateNorm(last.glu, last.add_norm)
        heads: Any = network.output_layer if isinstance(network.output_layer, nn.ModuleList) else [network.output_layer]
        folded(self, "out_weight", torch.cat([h.weight for h in heads]))
        folded(self, "out_bias", torch.cat([h.bias for h in heads]))
        folded(self, "at", torch.arange(self._encoder + self._horizon))

    def forward(self, *arrays: Tensor) -> Tensor:
        """[B, targets, quantiles, horizon].

        Args:
            arrays: those that ``inputs`` names, in its order:
                ``reals`` [B, encoder, inputs] targets, then covariates, right-padded;
                ``offsets`` [targets, quantiles, horizon] conformal ones, in the network's units;
                ``lengths`` [B] steps that are not padding;
                ``codes`` [B, encoder, categories] and ``statics`` [B, statics] positions of symbols in the schema;
                ``clock_rows`` [B, encoder + horizon, tables] rows of the calendar's tables;
                ``clock`` [B, encoder + horizon, others] calendar inputs that are no tables;
                ``lag`` [B, encoder + horizon, targets].
        """
        given = dict(zip(self.inputs, arrays, strict=True))
        reals, lengths = given["reals"], given.get("lengths")
        inputs = self._features(reals, given.get("lag"), lengths)
        rows = {name: given["clock_rows"][..., i] for i, name in enumerate(self.clock_tables)}
        rows["relative_time_idx"] = self.at[None] if lengths is None else _relative(self.at, self._encoder, lengths)
        static_rows = {name: given["statics"][:, None, j] for j, name in enumerate(self._statics)}
        static = self._static(self._pick("static", inputs.static), static_rows, None)  # [B, 1, hidden]
        context = self.context(static)
        known = [given["clock"] * self.keep_clock] if self.clock else []
        known += [inputs.lags] if inputs.lags is not None else []
        encoder = self._encoder
        seen = {name: given["codes"][..., j] for j, name in enumerate(self._categories)}
        seen |= {name: row[:, :encoder] for name, row in rows.items()}
        before = torch.cat([*(k[:, :encoder] for k in known), inputs.observed], dim=-1)
        past = self.past(self._pick("past", before), seen, context)
        after = self._pick("future", torch.cat(known, dim=-1)[:, encoder:]) if known else None
        future = self.future(after, {n: r[:, encoder:] for n, r in rows.items()}, context)
        out = self._decode(past, future.expand(len(reals), -1, -1), static, lengths)
        out = out.reshape(*out.shape[:2], self._n_targets, -1).permute(0, 2, 3, 1) + given["offsets"]
        values: Tensor = inputs.center[:, :, None, None] + inputs.scale[:, :, None, None] * sinh(out)
        return values

    def _decode(self, past: Tensor, future: Tensor, static: Tensor, lengths: Tensor | None) -> Tensor:
        """[B, horizon, targets x quantiles] in the network's units."""
        layers = self.write.num_layers
        hidden, cell = (g(static).transpose(0, 1).expand(layers, -1, -1) for g in (self.first_hidden, self.first_cell))
        if lengths is None:  # the library's own class handles lengths in a way that cannot be traced
            past_out, state = nn.LSTM.forward(self.read, past, (hidden.contiguous(), cell.contiguous()))
        else:
            past_out, state = self.read(past, hidden, cell, lengths)
        future_out, _ = nn.LSTM.forward(self.write, future, state)
        local = self.local(torch.cat([past_out, future_out], dim=1), torch.cat([past, future], dim=1))
        enriched = self.enrich(local, self.enrichment(static))
        query = enriched[:, self._encoder :]
        out = self.attended(self.attention(query, enriched, lengths), query)
        out = self.last(self.feed(out), local[:, self._encoder :])
        return F.linear(out, self.out_weight, self.out_bias)

    def _pick(self, what: str, reals: Tensor) -> Tensor | None:
        """The continuous inputs in the order of a selection."""
        order = self._orders[what]
        if order is None:
            return None
        return (
            reals if order == list(range(reals.shape[-1])) else reals.index_select(-1, getattr(self, f"{what}_order"))
        )


class _Attention(nn.Module):
    """Heads in one product; they share their values."""

    q_weight: Tensor
    q_bias: Tensor
    k_weight: Tensor
    k_bias: Tensor
    mask: Tensor

    def __init__(self, attention: Any, encoder: int, horizon: int) -> None:
        super().__init__()
        self._heads, self._encoder = attention.n_head, encoder
        size = math.sqrt(attention.d_k)
        folded(self, "q_weight", torch.cat([p.weight for p in attention.q_layers]) / size)
        folded(self, "q_bias", torch.cat([p.bias for p in attention.q_layers]) / size)
        folded(self, "k_weight", torch.cat([p.weight for p in attention.k_layers]))
        folded(self, "k_bias", torch.cat([p.bias for p in attention.k_layers]))
        self.value, self.out = attention.v_layer, attention.w_h
        ahead = torch.arange(encoder + horizon) - encoder >= torch.arange(horizon)[:, None]
        folded(self, "mask", torch.zeros(ahead.shape).masked_fill(ahead, _HIDDEN))

    def forward(self, query: Tensor, sequence: Tensor, lengths: Tensor | None) -> Tensor:
        q = self._split(F.linear(query, self.q_weight, self.q_bias))
        k = self._split(F.linear(sequence, self.k_weight, self.k_bias))
        v = self.value(sequence)[:, None].expand(-1, self._heads, -1, -1)
        mask = self.mask
        if lengths is not None:
            at = torch.arange(sequence.shape[1])
            padded = (at >= lengths[:, None]) & (at < self._encoder)
            mask = mask[None, None] + padded[:, None, None].to(mask.dtype) * _HIDDEN
        out: Tensor = self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0).mean(1))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """[B, heads, time, unit]."""
        return x.reshape(*x.shape[:2], self._heads, -1).transpose(1, 2)


class _PaddedLstm(nn.Module):
    """An LSTM over right-padded windows, as in ``models.recurrence``: one input more, 1 on padding, keeps the cell."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        push = torch.tensor([-_SATURATED, _SATURATED, 0.0, 0.0])  # gates: input, forget, cell, output
        self._layers = nn.ModuleList()
        for layer in range(lstm.num_layers):
            weights = {n: getattr(lstm, f"{n}_l{layer}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            pushed = push.repeat_interleave(lstm.hidden_size)[:, None]
            weights["weight_ih"] = torch.cat([weights["weight_ih"], pushed], dim=1)
            single = nn.LSTM(weights["weight_ih"].shape[1], lstm.hidden_size, batch_first=True)
            single.load_state_dict({f"{name}_l0": value for name, value in weights.items()})
            self._layers.append(single)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor, lengths: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        padding = (torch.arange(x.shape[1]) >= lengths[:, None]).to(x.dtype)[..., None]
        hiddens, cells = [], []
        for layer, lstm in enumerate(self._layers):
            state = (hidden[layer : layer + 1].contiguous(), cell[layer : layer + 1].contiguous())
            x, (_, c) = lstm(torch.cat([x, padding], dim=-1), state)
            hiddens.append(pick(x, lengths - 1))
            cells.append(c[0])
        return x, (torch.stack(hiddens), torch.stack(cells))


def _relative(at: Tensor, encoder: int, lengths: Tensor) -> Tensor:
    """[B, encoder + horizon] rows of the relative time's table: the horizon follows the padding at once."""
    shifted = torch.where(at < encoder, at - lengths[:, None] + encoder, at)
    return torch.where((at < encoder) & (at >= lengths[:, None]), torch.zeros_like(shifted), shifted)


def _tables(layout: Layout, scaling: Scaling) -> dict[str, Tensor]:
    """By variable that takes few values: those values, or a categorical one's embedding rows."""
    settings = layout.contract.settings
    tables = {n: torch.tensor(layout.calendar.table(n)) for n in layout.calendar.names if layout.calendar.small(n)}
    tables["relative_time_idx"] = torch.arange(-settings.encoder_steps, settings.horizon_steps) / settings.encoder_steps
    for name in scaling.constant:
        if name in tables:
            tables[name] = torch.zeros_like(tables[name])
    for name in (*layout.statics, *layout.categories):
        tables[name] = torch.from_numpy(layout.embedding_rows(name))
    return tables


def _orders(
    layout: Layout, static: FoldedSelection, past: FoldedSelection, future: FoldedSelection
) -> dict[str, list[int] | None]:
    """Where each selection's continuous inputs stand among those that are given to it."""
    known = [n for n in layout.known if n in past.continuous]
    given = {
        "static": (static, layout.static_reals),
        "past": (past, [*known, *layout.observed]),
        "future": (future, known),
    }
    return {
        what: [names.index(name) for name in selection.continuous] or None for what, (selection, names) in given.items()
    }
