"""What training minimises, and how cores share a batch: pinball loss in normalised units.

Near steps are read most and predicted best, so they weigh more (step weight h^-w). Quiet windows would dominate in
their own units, wild ones in raw units: each window weighs the square root of its scale, which is between.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor, nn
from torch.autograd.function import Function

from models.cores import cores
from models.dropout import drawn_from
from models.forward import forward
from models.layout import Layout, Scaling
from models.network_input import network_input
from models.normalizer import normalise
from models.sampling import Chunk


class Objective(nn.Module):
    """The weighted pinball loss (Koenker & Bassett, "Regression Quantiles", 1978) of batches."""

    def __init__(self, layout: Layout, scaling: Scaling, step_weight: float) -> None:
        """``step_weight``: the exponent w of h^-w."""
        super().__init__()
        self._layout, self._scaling = layout, scaling
        settings = layout.contract.settings
        weight = torch.arange(1, settings.horizon_steps + 1, dtype=torch.float32) ** -step_weight
        self.register_buffer("step_weight", weight / weight.mean(), persistent=False)
        self.register_buffer("levels", torch.tensor(settings.quantiles), persistent=False)
        self.register_buffer("spread", torch.tensor([scaling.spread[t] for t in layout.targets]), persistent=False)
        self._workers = ThreadPoolExecutor(cores(), "training", initializer=lambda: torch.set_num_threads(1))

    def loss(self, network: TemporalFusionTransformer, batch: Sequence[Chunk]) -> Tensor:
        """Mean over the observed (window, step, target) triples of a batch.

        On a CPU each core takes chunks and works out their gradients at once; their sum does not depend on how many
        cores there are, nor on which is done first.
        """
        device = next(network.parameters()).device
        if device.type != "cpu" or not torch.is_grad_enabled():
            values = [self._sum(network, chunk, device) for chunk in batch]
            return torch.stack(values).sum() / _observed(batch)
        parameters = [p for p in network.parameters() if p.requires_grad]
        loss: Tensor = _Shared.apply(self, network, batch, *parameters)
        return loss

    @torch.no_grad()
    def judge(self, network: TemporalFusionTransformer, batch: Sequence[Chunk]) -> float:
        """The loss of many chunks, without gradients."""
        device = next(network.parameters()).device
        workers: Any = self._workers if device.type == "cpu" else _Alone()

        def value(chunk: Chunk) -> float:
            with torch.inference_mode():
                return float(self._sum(network, chunk, device))

        total: float = sum(workers.map(value, batch))
        return total / _observed(batch)

    def gradients(
        self, network: TemporalFusionTransformer, batch: Sequence[Chunk], parameters: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss of a batch on the CPU, and its gradient by each parameter, chunks shared out to all cores."""

        def one(chunk: Chunk) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            with torch.enable_grad(), drawn_from(chunk.seed):
                value = self._sum(network, chunk, torch.device("cpu"))
                return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True)

        count = _observed(batch)
        total, sums = torch.zeros(()), [torch.zeros_like(p) for p in parameters]
        for value, grads in self._workers.map(one, batch):
            total += value / count
            for s, grad in zip(sums, grads, strict=True):
                if grad is not None:
                    s.add_(grad, alpha=1 / count)
        return total, sums

    def _sum(self, network: TemporalFusionTransformer, chunk: Chunk, device: torch.device) -> Tensor:
        inputs = network_input(self._layout, self._scaling, chunk.windows).to(device)
        output = forward(network, inputs)
        truth = normalise(chunk.future.to(device), inputs.center[:, None], inputs.scale[:, None])
        weight = (inputs.scale / self.spread).sqrt()[:, None] * self.step_weight[:, None]  # type: ignore[index,operator]
        error = truth[..., None] - output
        pinball = torch.maximum(self.levels * error, (self.levels - 1) * error).mean(-1)  # type: ignore[operator]
        return torch.where(torch.isfinite(truth), pinball * weight, 0).sum()


class _Shared(Function):
    """Gradients are worked out on the way forth, so that Lightning's loop need not know of the cores."""

    @staticmethod
    def forward(ctx: Any, objective: Objective, network: Any, batch: Sequence[Chunk], *parameters: Tensor) -> Tensor:
        loss, gradients = objective.gradients(network, batch, parameters)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *(grad * grads[0] for grad in ctx.saved_tensors))


class _Alone:
    """A device takes one chunk after the other."""

    map = staticmethod(map)


def _observed(batch: Sequence[Chunk]) -> int:
    return max(sum(int(torch.isfinite(chunk.future).sum()) for chunk in batch), 1)
