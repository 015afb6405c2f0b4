"""Interpretable multi-head attention (Lim et al., 2021, section 4.4): heads share their values and are averaged.

So the heads' weights can be averaged before they meet the values, and in the backward pass all heads share one
gradient. A window's weights (heads x horizon x steps) fit the second-level cache; the batch's do not: windows are taken
one after the other, and weights are computed again on the way back rather than kept.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- torch's own convention
from pytorch_forecasting.models.temporal_fusion_transformer.sub_modules import InterpretableMultiHeadAttention
from torch import Tensor
from torch.autograd.function import Function

from models.dropout import locked_dropout


def attend(
    attention: InterpretableMultiHeadAttention, query: Tensor, sequence: Tensor, lengths: Tensor | None
) -> Tensor:
    """[B, horizon, hidden] the library's attention under its causal mask.

    Args:
        attention: its layers.
        query: [B, horizon, hidden], the last steps of ``sequence``.
        sequence: [B, encoder + horizon, hidden].
        lengths: [B] steps of the encoder that are not padding; None where all are.
    """
    heads = attention.n_head

    def project(layers: Any, x: Tensor) -> Tensor:
        weight, bias = torch.cat([p.weight for p in layers]), torch.cat([p.bias for p in layers])
        return F.linear(x, weight, bias).view(*x.shape[:2], heads, -1).transpose(1, 2)

    q = project(attention.q_layers, query) / math.sqrt(attention.d_k)
    k, v = project(attention.k_layers, sequence), attention.v_layer(sequence)
    mask = _mask(query.shape[1], sequence.shape[1], lengths, query.device)
    out: Tensor = _Averaged.apply(q, k, v, mask)
    return locked_dropout(attention.w_h(locked_dropout(out, attention.dropout)), attention.dropout)


def _mask(horizon: int, steps: int, lengths: Tensor | None, device: torch.device) -> Tensor:
    """[1 or B, 1, horizon, steps] 0 where a step may be attended to, -inf elsewhere: padding, itself and what follows.

    A step of the horizon sees the whole encoder, so no row is masked wholly.
    """
    encoder = steps - horizon
    at = torch.arange(steps, device=device)
    ahead = (at - encoder) >= torch.arange(horizon, device=device)[:, None]
    hidden = ahead[None]
    if lengths is not None:
        hidden = hidden | ((at >= lengths[:, None]) & (at < encoder))[:, None]
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -math.inf)[:, None]


class _Averaged(Function):
    """[B, horizon, unit] the heads' mean attention to the values."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """``q``: [B, heads, horizon, unit]. ``k``: [B, heads, steps, unit]. ``v``: [B, steps, unit]."""
        ctx.save_for_backward(q, k, v, mask)
        out = q.new_empty(len(q), q.shape[2], v.shape[2])
        for row in range(len(q)):
            torch.mm(_weights(q, k, mask, row).mean(0), v[row], out=out[row])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Of every input but the mask."""
        q, k, v, mask = ctx.saved_tensors
        (grad,) = grads
        dq, dk, dv = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (q, k, v))
        for row in range(len(q)):
            weights = _weights(q, k, mask, row)
            torch.mm(weights.mean(0).T, grad[row], out=dv[row])
            shared = grad[row] @ (v[row].T / q.shape[1])  # [horizon, steps], the same for every head
            inner = weights * shared
            score = inner.addcmul_(weights, inner.sum(-1, keepdim=True), value=-1)
            torch.bmm(score, k[row], out=dq[row])
            torch.bmm(score.transpose(1, 2), q[row], out=dk[row])
        return dq, dk, dv, None


def _weights(q: Tensor, k: Tensor, mask: Tensor, row: int) -> Tensor:
    """[heads, horizon, steps] of one window."""
    scores = torch.baddbmm(mask[row if len(mask) > 1 else 0], q[row], k[row].transpose(1, 2))
    return scores.softmax(-1)
