"""Training, in two fits: the first chooses the number of epochs, the second uses all rows for that many.

The first sees the rows before a cut; its loss behind the cut says when to stop, and its errors there give the conformal
offsets and the skill that the card reports. The second begins anew, on everything, with the same seed and schedule.
"""

import hashlib
import logging
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import structlog
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from models.artifact import Model, Trained
from models.calibration import Calibration, calibrate
from models.layout import Layout, Scaling, variable
from models.samples import History, Samples
from models.sampling import Chunk, WindowStream, validation_chunks
from models.scaling import fit_scaling
from models.split import Split, split
from models.training import Training, TrainingOptions
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.errors import DataError, InputError, MismatchError
from schemas.fingerprint import differences, fingerprint
from schemas.validation import iso

log = structlog.get_logger(__name__)
_UNFINISHED = ".unfinished_{}"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training made.

    Attributes:
        final: trained on all rows but those of held-out servers.
        judged: trained before ``first_validation_step`` only: skill measured behind it is honest. The same as ``final``
            where there was nothing to validate on.
        split: the parts.
    """

    final: Trained
    judged: Trained
    split: Split


class Trainer:
    """One training on one history."""

    def __init__(
        self, contract: Contract, events: EventBatch, options: TrainingOptions, start: Model | None = None
    ) -> None:
        """Split the history.

        Args:
            contract: what is forecast.
            events: the history, in time order.
            options: for training.
            start: a model whose weights training begins with; its sizes are those of ``options``.

        Raises:
            DataError: too little data, or no usable window.
            MismatchError: ``start`` is of another contract or size.
        """
        if start is not None:
            _check_start(start, contract, options)
        self._start = start
        self._options = options
        self._events = events
        self._history = History(contract, events)
        self._layout = Layout(contract)
        self.split = split(self._history, options.validation_fraction, options.holdout_servers, options.seed)
        self._digest = events.sha256()
        self._started = time.perf_counter()

    def train(self, checkpoints: Path | None = None, *, resume: bool = False) -> Fitted:
        """Both fits.

        Args:
            checkpoints: a folder for the state after each epoch, so that a training that was killed can go on.
            resume: go on from there.

        Raises:
            DataError: training diverges.
            InputError: there is nothing to resume, or nothing that this data and these options led to.
        """
        folder = self._checkpoint_folder(checkpoints, resume=resume)
        parts, history, options = self.split, self._history, self._options
        judging = validation_chunks(history, parts.validation, options.validation_windows)
        log.info(
            "training", servers=len(history.keys), held_out=len(parts.held_out), events=len(self._events),
            refused=history.refused, windows=len(parts.train), validation_windows=_rows(judging), epochs=options.epochs,
        )  # fmt: skip
        if not judging:
            alone = self._finish(self._refit(options.epochs, folder), None)
            return Fitted(alone, alone, parts)
        before = history.step < parts.first_validation_step
        checkpoint = folder / "choose.ckpt" if folder else None
        chosen = self._fit(parts.train, before, options.epochs, judging=judging, checkpoint=checkpoint)
        calibration = calibrate(chosen.network, self._layout, chosen.scaling, judging)
        log.info("refit", epochs=chosen.epochs, windows=len(parts.everything))
        final = replace(self._refit(chosen.epochs, folder), losses=chosen.losses)
        return Fitted(self._finish(final, calibration), self._finish(chosen, calibration), parts)

    def _refit(self, epochs: int, folder: Path | None) -> "_Fit":
        checkpoint = folder / "refit.ckpt" if folder else None
        every = np.ones(len(self._history.step), bool)
        final = self._fit(self.split.everything, every, epochs, judging=[], checkpoint=checkpoint)
        if folder is not None:
            shutil.rmtree(folder)
        return final

    def _fit(
        self, samples: Samples, rows: NDArray[np.bool_], epochs: int, *, judging: list[Chunk], checkpoint: Path | None
    ) -> "_Fit":
        """Fit on the samples; scalers on the history's rows ``rows``, less held-out servers."""
        options, history = self._options, self._history
        rows = rows & ~np.isin(history.slot, self.split.held_out)
        scaling = fit_scaling(self._layout, history.step[rows], history.reals[rows])
        lightning.seed_everything(options.seed, verbose=False)
        stream = WindowStream(
            history, samples, epoch_windows=options.epoch_windows, batch_size=options.batch_size, seed=options.seed,
            breach_share=options.breach_share, heading_share=options.heading_share,
        )  # fmt: skip
        weights = self._start.network.state_dict() if self._start else None
        module = Training(self._layout, scaling, options, stream, epochs=epochs, start=weights)
        started = time.perf_counter()
        _run(module, stream, judging, epochs, checkpoint)
        if not module.best:
            raise DataError("training diverged: the loss was not finite in any epoch (a lower learning rate may help)")
        network = module.averaged.cpu()
        network.load_state_dict(module.best)
        seconds = time.perf_counter() - started
        unseen = _mean_for_unseen(network, self._history.contract, stream.seen, self._start)
        windows = min(options.epoch_windows, len(samples)) * len(module.losses)
        return _Fit(network.eval(), scaling, unseen, module.best_epoch, module.losses, windows, seconds)

    def _finish(self, fit: "_Fit", calibration: Calibration | None) -> Trained:
        history, parts = self._history, self.split
        names = history.keys
        metadata = {
            "events": len(self._events), "data_sha256": self._digest, "servers": len(names),
            "trained_servers": sorted(set(names) - {names[slot] for slot in parts.held_out}),
            "held_out_servers": sorted(names[slot] for slot in parts.held_out),
            "first_event_at": iso(self._events.time[0]), "last_event_at": iso(self._events.time[-1]),
            "first_validation_at": iso(parts.first_validation_step * history.contract.step_ms),
            "first_validation_step": parts.first_validation_step, "refused_events": history.refused,
            "train_windows": len(parts.train), "validation_windows": len(parts.validation),
            "refit_windows": len(parts.everything), "epochs": fit.epochs, "losses": fit.losses,
            "started_from": self._start.version if self._start else None,
            "options": self._options.model_dump(mode="json"),
            "windows_per_second": round(fit.windows / fit.seconds, 1),
            "seconds": round(time.perf_counter() - self._started, 1), "versions": _versions(),
            "calibration": calibration.metadata if calibration else {},
        }  # fmt: skip
        offsets = calibration.offsets if calibration else None
        return Trained(fit.network, self._layout, fit.scaling, self._options.size, fit.unseen, metadata, offsets)

    def _checkpoint_folder(self, root: Path | None, *, resume: bool) -> Path | None:
        """Named after what leads to the weights, so that another training's state is never gone on from."""
        if root is None:
            return None
        began = self._start.config.weights_sha256 if self._start else ""
        what = f"{fingerprint(self._history.contract)} {self._digest} {self._options.model_dump_json()} {began}"
        folder = root / _UNFINISHED.format(hashlib.sha256(what.encode()).hexdigest()[:12])
        if resume and not folder.is_dir():
            raise InputError(f"nothing to resume in {root}: no unfinished training of this data with these options")
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder


@dataclass(frozen=True, slots=True)
class _Fit:
    network: Any
    scaling: Scaling
    unseen: dict[str, list[str]]
    epochs: int
    losses: list[dict[str, float]]
    windows: int
    seconds: float


def train(contract: Contract, events: EventBatch, options: TrainingOptions) -> Fitted:
    """Fit a TFT on all targets at once, from the contract alone.

    Raises:
        DataError: too little data, no usable window, or data that training diverges on.
    """
    return Trainer(contract, events, options).train()


def _rows(chunks: Sequence[Chunk]) -> int:
    return sum(len(chunk.future) for chunk in chunks)


def _run(module: Training, stream: WindowStream, judging: list[Chunk], epochs: int, file: Path | None) -> None:
    """Lightning's loop, from the checkpoint where there is one."""
    with warnings.catch_warnings():
        # We log for ourselves, and the data are arrays in memory: workers would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*`__len__`.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # a deprecation inside lightning itself
        warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")
        warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the averaged weights
        warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")  # the refit
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        keep = ModelCheckpoint(file.parent, file.stem, save_top_k=1, enable_version_counter=False) if file else None
        trainer = lightning.Trainer(
            max_epochs=epochs,
            gradient_clip_val=1.0,
            logger=False,
            callbacks=keep,
            enable_checkpointing=keep is not None,
            enable_model_summary=False,
            enable_progress_bar=sys.stderr.isatty(),
            num_sanity_val_steps=0,
        )
        resumed = str(file) if file and file.exists() else None
        trainer.fit(
            module,
            DataLoader(stream, batch_size=None),
            DataLoader([judging], batch_size=None) if judging else None,  # type: ignore[arg-type]
            ckpt_path=resumed,
            weights_only=True,
        )


def _check_start(start: Model, contract: Contract, options: TrainingOptions) -> None:
    if found := differences(start.contract, contract):
        raise MismatchError(f"model {start.version} does not fit the contract:\n  " + "\n  ".join(found))
    if start.config.network.model_copy(update={"dropout": options.size.dropout}) != options.size:
        raise MismatchError(f"model {start.version} has the sizes {start.config.network}, not {options.size}")


def _mean_for_unseen(
    network: Any, contract: Contract, codes: dict[str, set[int]], start: Model | None
) -> dict[str, list[str]]:
    """Give symbols that training never saw the mean of the trained embedding rows; returns them by variable.

    ``codes``: by field, those seen in a training window. A symbol that only validation holds was not trained either.
    ``start``: what it saw keeps its rows.
    """
    unseen = {}
    for field in (*contract.categories, *contract.statics):
        name = variable(field.name)
        seen = {field.symbols[code] for code in codes[field.name]}
        if start is not None:
            seen |= set(field.symbols) - set(start.config.unseen_symbols.get(name, []))
        rows = network.hparams.embedding_labels[name]
        missing = [s for s in rows if s not in seen]
        if missing:
            unseen[name] = missing
            weight = network.input_embeddings.embeddings[name].weight
            with torch.no_grad():
                weight[[rows[s] for s in missing]] = weight[[rows[s] for s in sorted(seen)]].mean(0)
    return unseen


def _versions() -> dict[str, str]:
    packages = ("fleetcast", "torch", "pytorch-forecasting", "lightning", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
