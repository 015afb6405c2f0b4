"""Lightning's view of training: optimiser, schedule, averaged weights, early stopping, and what a checkpoint holds."""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import structlog
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from pydantic import Field
from torch import Tensor

from models.layout import Layout, Scaling
from models.network import build_network
from models.network_size import NetworkSize
from models.objective import Objective
from models.sampling import Chunk, WindowStream
from schemas.fields import Strict

log = structlog.get_logger(__name__)
_WARM_UP = 0.05  # of the steps
_LAST_RATE = 0.05  # of the learning rate


class TrainingOptions(Strict):
    """What a user may choose.

    Attributes:
        averaging: the decay of the exponential moving average of the weights, by optimiser step (Polyak averaging).
        patience: epochs without a better validation loss before training stops.
        step_weight: a step h of the horizon weighs h^-step_weight in the loss.
        breach_share: of an epoch's windows, so many are drawn from those with a breach near. They are rare: drawn as
            they come, what leads to a breach is learned last.
        heading_share: likewise of those that head for a breach, whether or not it came: they tell bursts from it.
    """

    epochs: int = Field(default=20, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    size: NetworkSize = NetworkSize()
    epoch_windows: int = Field(default=6_000, ge=1)
    validation_windows: int = Field(default=2_000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    averaging: float = Field(default=0.995, ge=0, lt=1)
    patience: int = Field(default=5, ge=1)
    step_weight: float = Field(default=0.5, ge=0)
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    breach_share: float = Field(default=0.2, ge=0, le=0.5)
    heading_share: float = Field(default=0.2, ge=0, le=0.5)
    holdout_servers: int | None = Field(default=None, ge=0)


class Training(lightning.LightningModule):
    """One fit. With validation chunks it keeps the averaged weights of the best epoch, without those of the last.

    Attributes:
        network: what the optimiser moves. averaged: the moving average of its weights, which is what counts.
        losses: by epoch. best_epoch: from 1, once there is one. best: its averaged weights.
        finished: whether the fit came to its end, by early stopping or by its epochs.
    """

    def __init__(
        self,
        layout: Layout,
        scaling: Scaling,
        options: TrainingOptions,
        stream: WindowStream,
        *,
        epochs: int | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        """``stream``: what to train on. ``epochs``: where fewer than in ``options``. ``start``: weights at first."""
        super().__init__()
        self.network = build_network(layout, scaling, options.size)
        if start is not None:
            self.network.load_state_dict(start)
        self.averaged = copy.deepcopy(self.network).requires_grad_(requires_grad=False).eval()
        self.objective = Objective(layout, scaling, options.step_weight)
        self.best: dict[str, Tensor] = {}
        self.best_epoch = 0
        self.losses: list[dict[str, float]] = []
        self.finished = False
        self._best_score = math.inf
        self._options, self._stream, self._epochs = options, stream, epochs or options.epochs
        self._steps = len(stream) * options.epochs  # the refit stops within the schedule that chose its length
        self._sums = [0.0, 0.0]
        self._judged: float | None = None
        self._started = time.perf_counter()

    def on_train_epoch_start(self) -> None:
        """Lightning's hook."""
        self.network.train()
        self._stream.epoch = self.current_epoch
        self._sums = [0.0, 0.0]
        self._started = time.perf_counter()

    def training_step(self, batch: Sequence[Chunk]) -> Tensor:
        """Lightning's hook."""
        loss = self.objective.loss(self.network, batch)
        rows = sum(len(chunk.future) for chunk in batch)
        self._sums[0] += float(loss.detach()) * rows
        self._sums[1] += rows
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the averaged weights; in the first steps faster, so that the random ones are soon forgotten."""
        decay = min(self._options.averaging, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            moved, new = list(self.averaged.parameters()), list(self.network.parameters())
            torch._foreach_lerp_(moved, new, 1 - decay)

    def validation_step(self, chunks: Sequence[Chunk]) -> None:
        """Lightning's hook; all validation chunks at once."""
        self._judged = self.objective.judge(self.averaged, chunks)

    def on_train_epoch_end(self) -> None:
        """Lightning's hook; validation has just run."""
        self.end_epoch(train=self._sums[0] / self._sums[1], validation=self._judged)
        self._judged = None
        self.trainer.should_stop = self.finished

    def end_epoch(self, *, train: float, validation: float | None) -> None:
        """Keep the averaged weights if they are the best so far; without validation the last are the best."""
        self.losses.append({"train": train} if validation is None else {"train": train, "validation": validation})
        score = train if validation is None else validation
        if math.isfinite(score) and (validation is None or score < self._best_score):
            self._best_score, self.best_epoch = score, len(self.losses)
            self.best = {k: v.detach().clone() for k, v in self.averaged.state_dict().items()}
        waited = validation is not None and len(self.losses) - self.best_epoch >= self._options.patience
        self.finished = waited or len(self.losses) >= self._epochs
        self._tell()

    def _tell(self) -> None:
        seconds = time.perf_counter() - self._started
        log.info(
            "epoch", epoch=len(self.losses), of=self._epochs, best_epoch=self.best_epoch,
            windows_per_second=round(self._sums[1] / seconds, 1),
            **{k: round(v, 4) for k, v in self.losses[-1].items()},
        )  # fmt: skip

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; a linear warm-up, then a cosine."""
        options, steps = self._options, max(self._steps, 2)
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        warm_up = max(1, round(_WARM_UP * steps))

        def rate(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Windows are NumPy until their tensors are made."""
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the library's checkpoint lacks, as plain values and tensors."""
        checkpoint["fleetcast"] = {
            "best": self.best, "best_epoch": self.best_epoch, "best_score": self._best_score, "losses": self.losses,
            "finished": self.finished,
            "seen": {name: sorted(codes) for name, codes in self._stream.seen.items()},
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        kept = checkpoint["fleetcast"]
        self.best, self.best_epoch, self.losses = kept["best"], kept["best_epoch"], kept["losses"]
        self._best_score, self.finished = kept["best_score"], kept["finished"]
        self._stream.seen.update({name: set(codes) for name, codes in kept["seen"].items()})
