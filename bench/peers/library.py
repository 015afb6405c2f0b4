"""pytorch-forecasting itself: ``predict()`` on a TimeSeriesDataSet made for each batch, and its plain batched forward.

Runs in a process of its own, so that no setting of ours (threads above all) slows it down. Frames and tensors are made
before the clock runs.
"""

import os
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.windows import WindowBatch

PREDICT_BATCH = 64  # of predict()'s dataloader; 64 to 256 made no difference that could be seen
CHANGES = (1, 2, 4, 8)


class Library:
    """The peer's process, seen from here; times are seconds of its own clock."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        """Of a pool of one process."""
        self._pool = pool

    def load(self, name: str, folder: Path, windows: WindowBatch) -> None:
        """Make frame and tensors of ``windows`` for the model in ``folder``; kept under ``name``."""
        self._pool.submit(_load, name, folder, windows).result()

    def predict(self, name: str) -> float:
        """Seconds of a new dataset, a new loader and ``predict()``, for all windows."""
        return self._pool.submit(_predict, name).result()[0]

    def predicted(self, name: str) -> NDArray[np.float32]:
        """[B, targets, quantiles, horizon] of ``predict()``, raw units."""
        return self._pool.submit(_predict, name).result()[1].transpose(0, 2, 3, 1)

    def forward(self, name: str, batch: int) -> float:
        """Seconds of the plain forward over all windows, so many at a time."""
        return self._pool.submit(_forward, name, batch).result()

    def rounding(self, name: str) -> NDArray[np.float64]:
        """[B, targets, quantiles, horizon] how far its float32 is from its own float64, of 1 + value; full windows."""
        return self._pool.submit(_rounding, name).result()


@contextmanager
def library() -> Iterator[Library]:
    """Start the peer's process, and end it."""
    ours = os.environ.pop("OMP_WAIT_POLICY", None)  # our command line's wish, not the peer's
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            yield Library(pool)
    finally:
        if ours is not None:
            os.environ["OMP_WAIT_POLICY"] = ours


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any
    windows: WindowBatch
    frame: pd.DataFrame


_loaded: dict[str, _Loaded] = {}


def _load(name: str, folder: Path, windows: WindowBatch) -> None:
    import logging  # noqa: PLC0415  this process's own, beside what it loads

    from models import artifact  # noqa: PLC0415  torch belongs into the peer's process

    model = artifact.load(folder)
    model.network.eval()  # loads lightning, which sets its own levels
    for logger in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    _loaded[name] = _Loaded(model, windows, frame(model, windows))


def _predict(name: str) -> tuple[float, NDArray[np.float32]]:
    import torch  # noqa: PLC0415  the peer's process only

    found = _loaded[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        loader = _dataset(found).to_dataloader(train=False, batch_size=PREDICT_BATCH, num_workers=0)
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        result = found.model.network.predict(loader, mode="quantiles", return_index=True, trainer_kwargs=options)
        took = time.perf_counter() - began
    output = result.output if isinstance(result.output, list) else [result.output]
    order = np.argsort(result.index["window"].astype(int).to_numpy())
    return took, torch.stack(list(output), dim=2).numpy()[order]


def _forward(name: str, batch: int) -> float:
    import torch  # noqa: PLC0415  the peer's process only

    from models.network_input import network_input  # noqa: PLC0415  loads torch

    found = _loaded[name]
    model, windows = found.model, found.windows
    parts = [windows.take(slice(start, start + batch)) for start in range(0, len(windows), batch)]
    inputs = [library_input(network_input(model.layout, model.scaling, part)) for part in parts]
    with torch.inference_mode():
        began = time.perf_counter()
        for given in inputs:
            model.network(given)
        return time.perf_counter() - began


def _rounding(name: str) -> NDArray[np.float64]:
    import torch  # noqa: PLC0415  the peer's process only

    from models.network_input import network_input  # noqa: PLC0415  loads torch

    found = _loaded[name]
    model = found.model
    inputs = network_input(model.layout, model.scaling, found.windows)
    center, scale = (t.numpy()[:, :, None, None].astype(float) for t in (inputs.center, inputs.scale))

    def values(kind: torch.dtype) -> NDArray[np.float64]:
        given = {n: _cast(value, kind) for n, value in library_input(inputs).items()}
        with torch.inference_mode():
            output = model.network.to(kind)(given)["prediction"]
        output = output if isinstance(output, list) else [output]
        unit: NDArray[np.float64] = torch.stack(list(output), 2).double().numpy().transpose(0, 2, 3, 1)
        return np.asarray(center + scale * unit)

    single, double = values(torch.float32), values(torch.float64)
    model.network.to(torch.float32)
    return np.asarray(np.abs(single - double) / (1 + np.abs(double)))


def _cast(value: Any, kind: Any) -> Any:
    if isinstance(value, list):
        return [_cast(each, kind) for each in value]
    return value.to(kind) if value.is_floating_point() else value


def library_input(inputs: Any) -> dict[str, Any]:
    """The dictionary that the library's own ``forward`` takes; it needs one window of full length in the batch."""
    import torch  # noqa: PLC0415  the peer's process only

    rows, encoder = inputs.cat.shape[:2]
    horizon, n_targets = inputs.cont.shape[1] - encoder, inputs.center.shape[1]
    unit = torch.tensor([[0.0, 1.0]]).expand(rows, -1)
    return {
        "encoder_cat": inputs.cat,
        "decoder_cat": torch.zeros(rows, horizon, inputs.cat.shape[2], dtype=torch.long),
        "encoder_cont": inputs.cont[:, :encoder],
        "decoder_cont": inputs.cont[:, encoder:],
        "encoder_lengths": inputs.lengths,
        "decoder_lengths": torch.full((rows,), horizon),
        "target_scale": [unit] * n_targets if n_targets > 1 else unit,
    }


def frame(model: Any, windows: WindowBatch) -> pd.DataFrame:
    """A row a step: each window as a series of its own, the horizon's rows behind it."""
    contract, settings = model.contract, model.contract.settings
    encoder, horizon = settings.encoder_steps, settings.horizon_steps
    position = np.arange(encoder + horizon)
    length = windows.lengths[:, None]
    relative = np.where(position < encoder, position - length, position - encoder)  # 0 is the first forecast step
    keep = (position >= encoder) | (position < length)
    source = np.minimum(np.where(position < encoder, position, encoder), length - 1)  # the horizon repeats the last
    window = np.arange(len(windows))[:, None]
    step = windows.last_step[:, None] + 1 + relative
    columns: dict[str, Any] = {
        "window": np.broadcast_to(window, keep.shape)[keep].astype(str), "time_idx": (relative + 1000)[keep],
    }  # fmt: skip
    for column, field in enumerate(contract.inputs):
        columns[field.name] = windows.reals[window, source, column][keep].astype(float)
    for column, field in enumerate(contract.categories):
        columns[field.name] = np.array(field.symbols)[windows.categories[window, source, column][keep]]
    for column, field in enumerate(contract.statics):
        codes = np.broadcast_to(windows.statics[:, column, None], keep.shape)
        columns[field.name] = np.array(field.symbols)[codes[keep]]
    columns |= {name: np.broadcast_to(v[:, None], keep.shape)[keep] for name, v in _changes(model, windows).items()}
    return pd.DataFrame({**columns, **_calendar(step[keep] * settings.step_seconds)})


def _calendar(epoch_seconds: NDArray[np.int64]) -> dict[str, Any]:
    time_of = pd.to_datetime(pd.Series(epoch_seconds), unit="s", utc=True).dt
    angle = 2 * np.pi * (epoch_seconds % 86_400) / 86_400
    return {
        "hour": time_of.hour.to_numpy(float), "day_of_week": time_of.dayofweek.to_numpy(float),
        "month": time_of.month.to_numpy(float), "is_weekend": (time_of.dayofweek >= 5).to_numpy(float),
        "time_of_day_sin": np.sin(angle), "time_of_day_cos": np.cos(angle),
    }  # fmt: skip


def _changes(model: Any, windows: WindowBatch) -> dict[str, NDArray[np.float64]]:
    """How each target moved over the last 1, 2, 4 and 8 steps, in the window's scale."""
    rows, last = np.arange(len(windows)), windows.lengths - 1
    inside = np.arange(1, windows.reals.shape[1]) < windows.lengths[:, None]
    found = {}
    for column, name in enumerate(model.layout.targets):
        values = windows.reals[..., column].astype(np.float64)
        moved = np.where(inside, np.abs(np.diff(values, axis=1)), 0).sum(axis=1)
        scale = moved / np.maximum(last, 1) + model.scaling.floor[name]
        for steps in CHANGES:
            change = values[rows, last] - values[rows, np.maximum(last - steps, 0)]
            found[f"{name}_change_{steps}"] = np.arcsinh(change / scale)
    return found


def _dataset(found: _Loaded) -> Any:
    from pytorch_forecasting import TimeSeriesDataSet  # noqa: PLC0415  loads torch
    from pytorch_forecasting.data import MultiNormalizer, NaNLabelEncoder  # noqa: PLC0415  loads torch

    from models.normalizer import WindowNormalizer  # noqa: PLC0415  loads torch

    model = found.model
    contract, settings, layout = model.contract, model.contract.settings, model.layout
    normalizers = [WindowNormalizer(model.scaling.floor[t]) for t in layout.targets]
    encoders = {
        f.name: NaNLabelEncoder(add_nan=False).fit(pd.Series(f.symbols))
        for f in (*contract.categories, *contract.statics)
    }
    several = len(layout.targets) > 1
    return TimeSeriesDataSet(
        found.frame,
        time_idx="time_idx",
        target=layout.targets if several else layout.targets[0],
        group_ids=["window"],
        min_encoder_length=settings.min_encoder_steps,
        max_encoder_length=settings.encoder_steps,
        min_prediction_length=settings.horizon_steps,
        max_prediction_length=settings.horizon_steps,
        static_categoricals=layout.statics,
        static_reals=layout.changes,
        time_varying_known_reals=list(layout.calendar.names),
        time_varying_unknown_reals=layout.observed,
        time_varying_unknown_categoricals=layout.categories,
        target_normalizer=MultiNormalizer(normalizers) if several else normalizers[0],
        categorical_encoders={**encoders, "window": NaNLabelEncoder(add_nan=True)},
        scalers=_scalers(model),
        add_relative_time_idx=True,
        add_target_scales=True,
        predict_mode=True,
    )


def _scalers(model: Any) -> dict[str, Any]:
    """What the network was trained with: fixed numbers, nothing fitted here."""
    from sklearn.preprocessing import FunctionTransformer  # type: ignore[import-untyped]  # noqa: PLC0415  slow to load

    scaling, layout = model.scaling, model.layout
    found: dict[str, Any] = dict.fromkeys(layout.reals)
    calendar = {
        "hour": (11.5, 6.922), "day_of_week": (3.0, 2.0), "month": (6.5, 3.452), "is_weekend": (2 / 7, 0.4518),
        "time_of_day_sin": (0.0, 0.5**0.5), "time_of_day_cos": (0.0, 0.5**0.5),
    }  # fmt: skip
    for name, (mean, deviation) in calendar.items():
        keep = float(name not in scaling.constant)
        found[name] = FunctionTransformer(
            lambda x, m=mean, d=deviation, k=keep: k * (np.asarray(x, float) - m) / d
        )  # fmt: skip
    for name, (mean, deviation) in scaling.covariates.items():
        keep = float(name not in scaling.constant)
        found[name] = FunctionTransformer(
            lambda x, m=mean, d=deviation, k=keep: k * np.arcsinh((np.asarray(x, float) - m) / d)
        )
    for name in layout.targets:
        level, spread = scaling.level[name], scaling.spread[name]
        found[f"{name}_center"] = FunctionTransformer(
            lambda x, m=level, d=spread: np.clip((np.asarray(x, float) - m) / d, -8, 8)
        )
        found[f"{name}_scale"] = FunctionTransformer(
            lambda x, d=spread: np.clip(np.log(np.asarray(x, float) / d), -8, 8)
        )
    return {name: found[name] for name in layout.reals if name not in layout.targets}
