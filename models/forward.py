"""The Temporal Fusion Transformer's forward pass, restructured: the library's function, several times faster.

The library runs each input's little network on its own, and moves most of the time. Here inputs that take few values
(calendar, categories, relative time) are table rows, the others go through one batched product, what is linear in a
row is folded, and attention stays in the cache. Gradients flow as in the library's forward.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor, nn

from models.attention import attend
from models.gates import add_norm, gate, gate_add_norm, grn
from models.network_input import NetworkInput
from models.recurrence import recur
from models.selection import select


def forward(network: TemporalFusionTransformer, inputs: NetworkInput) -> Tensor:
    """[B, horizon, targets, quantiles] in normalised units: the library's ``forward`` on the same inputs.

    Dropout is active where the network is in training mode. Padding at an encoder's end has no influence, and no window
    of the batch needs full length.
    """
    encoder = inputs.cat.shape[1]
    static = select(network, network.static_variable_selection, inputs, slice(0, 1), None)  # [B, 1, hidden]
    context = grn(network.static_context_variable_selection, static)
    past = select(network, network.encoder_variable_selection, inputs, slice(0, encoder), context)
    future = select(network, network.decoder_variable_selection, inputs, slice(encoder, None), context)
    hidden = grn(network.static_context_initial_hidden_lstm, static)[:, 0]
    cell = grn(network.static_context_initial_cell_lstm, static)[:, 0]
    lengths = None if bool((inputs.lengths == encoder).all()) else inputs.lengths
    past_out, state = recur(network.lstm_encoder, past, hidden, cell, lengths)
    future_out, _ = recur(network.lstm_decoder, future, *state, None)
    sequence = torch.cat([past_out, future_out], dim=1)
    gated = gate(network.post_lstm_gate_encoder, sequence)
    local = add_norm(network.post_lstm_add_norm_encoder, gated, torch.cat([past, future], dim=1))
    enriched = grn(network.static_enrichment, local, grn(network.static_context_enrichment, static))
    query = enriched[:, encoder:]
    attended = attend(network.multihead_attn, query, enriched, inputs.lengths if lengths is not None else None)
    output = gate_add_norm(network.post_attn_gate_norm, attended, query)
    output = grn(network.pos_wise_ff, output)
    output = gate_add_norm(network.pre_output_gate_norm, output, local[:, encoder:])
    heads: Any = network.output_layer if isinstance(network.output_layer, nn.ModuleList) else [network.output_layer]
    weight, bias = torch.cat([h.weight for h in heads]), torch.cat([h.bias for h in heads])
    return F.linear(output, weight, bias).reshape(*output.shape[:2], len(heads), -1)
