"""Training: pytorch-forecasting's TFT on windows sampled from arrays, with Lightning's loop.

The loss is the pinball loss in normalised units, early steps weighted (step weight h^-0.75): what is near is read most.
"""

import hashlib
import logging
import math
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import lightning
import numpy as np
import structlog
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from models.artifact import Trained
from models.layout import Layout, NetworkInput, Scaling, network_input, variable
from models.network import NetworkSize, build_network, forward
from models.samples import History, Samples
from models.scaling import fit_scaling
from models.windows import WindowBatch
from schemas.batch import EventBatch, Ints
from schemas.contract import Contract
from schemas.errors import DataError
from schemas.fields import Strict

log = structlog.get_logger(__name__)
VALIDATION_WINDOWS = 2_000
_STEP_WEIGHT = 0.75


class TrainingOptions(Strict):
    """What a user may choose."""

    epochs: int = Field(default=20, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    size: NetworkSize = NetworkSize()
    epoch_windows: int = Field(default=6_000, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)


@dataclass(frozen=True, slots=True)
class Split:
    """Windows to train on and to validate on: no step of a validation horizon lies in any training window."""

    train: Samples
    validation: Samples
    first_validation_step: int


def split(history: History, fraction: float) -> Split:
    """The last ``fraction`` of time validates, for all servers; horizons that straddle the cut are left out.

    Raises:
        DataError: too little data, with how much there is and how much is needed.
    """
    settings = history.contract.settings
    first, last = int(history.step.min()), int(history.step.max())
    needed = settings.min_encoder_steps + 2 * settings.horizon_steps
    if last - first + 1 < needed:
        raise DataError(
            f"the data spans {last - first + 1} steps of {settings.step_seconds} s; training needs at least "
            f"min_encoder_steps + 2 x horizon_steps = {needed}"
        )
    cut = max(last + 1 - max(round(fraction * (last - first + 1)), settings.horizon_steps), first)
    ends = history.samples.step + settings.horizon_steps
    train = history.samples.take(ends < cut)
    validation = history.samples.take((history.samples.step + 1 >= cut) & (ends <= last))
    if not len(train):
        raise DataError(
            f"no server has an unbroken window of {settings.min_encoder_steps} steps before a horizon: "
            f"a gap of more than max_gap_steps = {settings.max_gap_steps} ends a window"
        )
    return Split(train, validation, cut)


class WindowStream(IterableDataset):  # type: ignore[type-arg]
    """One epoch of batches: windows drawn at random without replacement, half of them of random shorter length.

    Attributes:
        seen: by category or static of the contract, the symbols' positions that were in any window so far.
    """

    def __init__(self, history: History, samples: Samples, options: TrainingOptions) -> None:
        """``samples`` to draw from."""
        self._history, self._samples, self._options = history, samples, options
        contract = history.contract
        self.seen: dict[str, set[int]] = {f.name: set() for f in (*contract.categories, *contract.statics)}
        self._epoch = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        rows = min(self._options.epoch_windows, len(self._samples))
        return math.ceil(rows / self._options.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        rng = np.random.default_rng([self._options.seed, self._epoch])
        self._epoch += 1
        rows = rng.permutation(len(self._samples))[: self._options.epoch_windows]
        for start in range(0, len(rows), self._options.batch_size):
            samples = self._samples.take(rows[start : start + self._options.batch_size])
            windows = self._history.windows(samples, self._lengths(samples, rng))
            self._note(windows)
            yield windows, _future(self._history, samples)

    def _lengths(self, samples: Samples, rng: np.random.Generator) -> Ints:
        """Lengths between min_encoder_steps and what there is."""
        settings = self._history.contract.settings
        full = np.minimum(samples.available, settings.encoder_steps)
        random = rng.integers(settings.min_encoder_steps, full + 1)
        return np.where(rng.random(len(full)) < 0.5, random, full)

    def _note(self, windows: WindowBatch) -> None:
        contract = self._history.contract
        inside = np.arange(windows.categories.shape[1]) < windows.lengths[:, None]
        for column, field in enumerate(contract.categories):
            self.seen[field.name].update(np.unique(windows.categories[inside][:, column]).tolist())
        for column, field in enumerate(contract.statics):
            self.seen[field.name].update(np.unique(windows.statics[:, column]).tolist())


def _future(history: History, samples: Samples) -> Tensor:
    return torch.from_numpy(history.future(samples))


class Training(lightning.LightningModule):
    """Lightning's view of it. Keeps the best weights by validation loss in memory."""

    def __init__(self, layout: Layout, scaling: Scaling, options: TrainingOptions, steps: int) -> None:
        """``steps``: optimiser steps of the whole run, for the schedule."""
        super().__init__()
        self.network = build_network(layout, scaling, options.size)
        self.best: dict[str, Tensor] = {}
        self._best_score = math.inf
        self.losses: list[dict[str, float]] = []
        self._layout, self._scaling, self._options, self._steps = layout, scaling, options, steps
        horizon = layout.contract.settings.horizon_steps
        weight = torch.arange(1, horizon + 1, dtype=torch.float32) ** -_STEP_WEIGHT
        self.register_buffer("step_weight", weight / weight.mean())
        self.register_buffer("levels", torch.tensor(layout.contract.settings.quantiles, dtype=torch.float32))
        self._train: list[float] = []
        self._validation: list[tuple[float, int]] = []

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        """Weighted pinball loss of a batch, in normalised units."""
        windows, future = batch
        inputs = self._to_device(network_input(self._layout, self._scaling, windows.with_one_full()))
        output = forward(self.network, inputs)[: len(windows)]
        scale, center = inputs.scale[: len(windows)], inputs.center[: len(windows)]
        truth = (future.to(self.device) - center[:, None]) / scale[:, None]
        spread = torch.tensor([self._scaling.spread[t] for t in self._layout.targets], device=self.device)
        # Quiet windows would dominate in their own units, wild ones in raw units: the square root is between.
        weight = (scale / spread).sqrt()[:, None] * self.step_weight[:, None]  # type: ignore[index]
        error = truth[..., None] - output
        pinball = torch.maximum(self.levels * error, (self.levels - 1) * error).mean(-1)  # type: ignore[operator]
        seen = torch.isfinite(truth)
        return torch.where(seen, pinball * weight, 0).sum() / seen.sum().clamp(min=1)

    def training_step(self, batch: tuple[Any, Tensor]) -> Tensor:
        """Lightning's hook."""
        loss = self.loss(batch)
        self._train.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: tuple[Any, Tensor]) -> None:
        """Lightning's hook."""
        self._validation.append((float(self.loss(batch)), len(batch[1])))

    def on_train_epoch_end(self) -> None:
        """Keep the weights if they are the best so far (validation has just run)."""
        entry = {"train": float(np.mean(self._train))}
        if self._validation:
            values, rows = zip(*self._validation, strict=True)
            entry["validation"] = float(np.average(values, weights=rows))
        self._train, self._validation = [], []
        score = entry.get("validation", entry["train"])
        if score < self._best_score:  # never true of NaN
            self._best_score = score
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.losses.append(entry)
        log.info("epoch", epoch=len(self.losses), of=self._options.epochs, **{k: round(v, 4) for k, v in entry.items()})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, one cycle."""
        options = self._options
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=options.learning_rate, total_steps=max(self._steps, 2), pct_start=0.2
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Windows are NumPy until their tensors are made."""
        return batch

    def _to_device(self, inputs: NetworkInput) -> NetworkInput:
        moved = {
            k: [t.to(self.device) for t in v] if isinstance(v, list) else v.to(self.device) for k, v in inputs.x.items()
        }
        return NetworkInput(moved, inputs.center.to(self.device), inputs.scale.to(self.device))


def train(contract: Contract, events: EventBatch, options: TrainingOptions) -> Trained:
    """Fit a TFT on all targets at once, from the contract alone.

    Raises:
        DataError: too little data, no usable window, or data that training diverges on.
    """
    started = time.perf_counter()
    lightning.seed_everything(options.seed, verbose=False)
    history = History(contract, events)
    layout = Layout(contract)
    parts = split(history, options.validation_fraction)
    before = history.step < parts.first_validation_step
    scaling = fit_scaling(layout, history.step[before], history.reals[before])
    stream = WindowStream(history, parts.train, options)
    log.info(
        "training",
        servers=len(history.keys), events=len(events), refused=history.refused, windows=len(parts.train),
        validation_windows=len(parts.validation), epochs=options.epochs, constant_inputs=list(scaling.constant),
    )  # fmt: skip
    module = Training(layout, scaling, options, steps=len(stream) * options.epochs)
    fitting = time.perf_counter()
    _fit(module, stream, _validation_batches(history, parts.validation, options), options.epochs)
    seconds = time.perf_counter() - fitting
    if not module.best:
        raise DataError("training diverged: the loss was not finite in any epoch (a lower learning rate may help)")
    module.network.load_state_dict(module.best)
    unseen = _mean_for_unseen(module, contract, stream.seen)
    rate = min(options.epoch_windows, len(parts.train)) * len(module.losses) / seconds
    metadata = {
        "events": len(events), "data_sha256": _digest(events), "servers": len(history.keys),
        "first_event_at": _iso(events.time[0]), "last_event_at": _iso(events.time[-1]),
        "first_validation_at": _iso(parts.first_validation_step * contract.step_ms),
        "first_validation_step": parts.first_validation_step,
        "refused_events": history.refused, "train_windows": len(parts.train),
        "validation_windows": len(parts.validation), "options": options.model_dump(mode="json"),
        "losses": module.losses, "windows_per_second": round(rate, 1),
        "seconds": round(time.perf_counter() - started, 1), "versions": _versions(),
    }  # fmt: skip
    log.info("trained", seconds=metadata["seconds"], windows_per_second=metadata["windows_per_second"])
    return Trained(module.network.cpu().eval(), layout, scaling, options.size, unseen, metadata)


def _fit(module: Training, stream: WindowStream, validation: list[tuple[Any, Tensor]], epochs: int) -> None:
    with warnings.catch_warnings():
        # We log for ourselves, and the data are arrays in memory: workers would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`__len__`.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # a deprecation inside lightning itself
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        trainer = lightning.Trainer(
            max_epochs=epochs,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
            num_sanity_val_steps=0,
        )
        trainer.fit(module, DataLoader(stream, batch_size=None), DataLoader(validation, batch_size=None))  # type: ignore[arg-type]


def _validation_batches(history: History, samples: Samples, options: TrainingOptions) -> list[tuple[Any, Tensor]]:
    """At most ``VALIDATION_WINDOWS`` windows, evenly spread, of full length where there is."""
    rows = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), VALIDATION_WINDOWS)).astype(int))
    starts = range(0, len(rows) if len(samples) else 0, options.batch_size)
    chosen = [samples.take(rows[start : start + options.batch_size]) for start in starts]
    return [(history.windows(part), _future(history, part)) for part in chosen]


def _mean_for_unseen(module: Training, contract: Contract, codes: dict[str, set[int]]) -> dict[str, list[str]]:
    """Give symbols that training never saw the mean of the trained embedding rows; returns them by variable.

    ``codes``: by field, those seen in a training window. A symbol that only validation holds was not trained either.
    """
    unseen = {}
    for field in (*contract.categories, *contract.statics):
        name = variable(field.name)
        seen = {field.symbols[code] for code in codes[field.name]}
        missing = [s for s in module.network.hparams.embedding_labels[name] if s not in seen]
        if missing:
            unseen[name] = missing
            weight = module.network.input_embeddings.embeddings[name].weight
            rows = module.network.hparams.embedding_labels[name]
            with torch.no_grad():
                weight[[rows[s] for s in missing]] = weight[[rows[s] for s in sorted(seen)]].mean(0)
    return unseen


def _iso(time_ms: int) -> str:
    return f"{np.datetime64(int(time_ms), 'ms')}Z"


def _digest(events: EventBatch) -> str:
    """SHA-256 over the events' columns: which data a model was trained on."""
    digest = hashlib.sha256("\n".join(events.keys).encode())
    for array in (events.time, events.reals, events.enums):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    packages = ("fleetcast", "torch", "pytorch-forecasting", "lightning", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
