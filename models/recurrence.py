"""The LSTM over right-padded windows without packing: padding keeps the cell, and the last hidden state is looked up.

An extra input that is 1 on padding drives the forget gate to 1 and the input gate to 0 (exactly: a sigmoid of 1e4 is 1
in float32), so the cell after the padding is the cell at the window's end. Packing costs five times the LSTM itself.
"""

from typing import Any

import torch
from torch import Tensor, nn

_SATURATED = 1e4


def recur(
    lstm: nn.LSTM, x: Tensor, hidden: Tensor, cell: Tensor, lengths: Tensor | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run an LSTM of any number of layers.

    Args:
        lstm: batch first, one direction.
        x: [B, time, input].
        hidden: [B, hidden] or [layers, B, hidden], the state before.
        cell: the same.
        lengths: [B] steps that are not padding; None where all are.

    Returns:
        [B, time, hidden] outputs (of padding: anything), and the state [layers, B, hidden] after ``lengths`` steps.
    """
    hidden, cell = (s.expand(lstm.num_layers, *s.shape[-2:]) for s in (hidden, cell))
    ends: tuple[list[Tensor], list[Tensor]] = ([], [])
    for layer in range(lstm.num_layers):
        if layer and lstm.dropout:
            x = nn.functional.dropout(x, lstm.dropout, lstm.training)
        x, h, c = _layer(lstm, layer, x, (hidden[layer], cell[layer]), lengths)
        ends[0].append(h)
        ends[1].append(c)
    return x, (torch.stack(ends[0]), torch.stack(ends[1]))


def _layer(
    lstm: nn.LSTM, layer: int, x: Tensor, state: tuple[Tensor, Tensor], lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    weights = [getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    if lengths is not None:
        padding = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        x = torch.cat([x, padding.unsqueeze(-1).to(x.dtype)], dim=-1)
        push = torch.tensor([-_SATURATED, _SATURATED, 0.0, 0.0], device=x.device)  # gates: input, forget, cell, output
        weights[0] = torch.cat([weights[0], push.repeat_interleave(lstm.hidden_size)[:, None]], dim=1)
    initial = tuple(s.unsqueeze(0).contiguous() for s in state)
    run: Any = torch.lstm
    out, h, c = run(x, initial, weights, True, 1, 0.0, lstm.training, False, True)
    if lengths is None:
        return out, h[0], c[0]
    return out, out[torch.arange(len(out), device=out.device), lengths - 1], c[0]
