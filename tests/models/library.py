"""pytorch-forecasting's own ``predict()`` on the same rows: frames, scalers and dataset, made without our layout."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_forecasting import TimeSeriesDataSet
from pytorch_forecasting.data import MultiNormalizer, NaNLabelEncoder
from sklearn.preprocessing import FunctionTransformer

from models.artifact import Model
from models.normalizer import WindowNormalizer
from models.samples import History, Samples


def reference_frame(model: Model, history: History, samples: Samples, rows: pd.DataFrame) -> pd.DataFrame:
    """Each window as a series of its own, and the horizon's rows appended behind it.

    Args:
        model: gives the contract.
        history: gives the keys.
        samples: the windows.
        rows: observed and held steps: server, step, one column a field.
    """
    contract, settings = model.contract, model.contract.settings
    frames = []
    for window, (slot, step) in enumerate(zip(samples.slot, samples.step, strict=True)):
        length = min(samples.available[window], settings.encoder_steps)
        mine = rows[(rows.server == history.keys[slot]) & (rows.step <= step)]
        mine = mine[mine.step > step - samples.available[window]]
        past = mine.tail(length)
        future = pd.DataFrame({"step": range(step + 1, step + 1 + settings.horizon_steps)})
        for column in past.columns.difference(["step"]):
            future[column] = past[column].iloc[-1]  # unknown in the future; the network must not look at them
        for target in contract.targets:
            future[target.name] = 1e6
        frame = pd.concat([past, future], ignore_index=True)
        _add_lags(frame, mine, model)
        _add_changes(frame, past, model)
        frames.append(frame.assign(window=str(window), time_idx=frame.step - step + 1000))
    frame = pd.concat(frames, ignore_index=True)
    time = pd.to_datetime(frame.step * settings.step_seconds, unit="s", utc=True)
    frame["hour"], frame["day_of_week"], frame["month"] = time.dt.hour, time.dt.dayofweek, time.dt.month
    frame["is_weekend"] = (time.dt.dayofweek >= 5).astype(int)
    angle = 2 * np.pi * (time.dt.hour * 3600 + time.dt.minute * 60 + time.dt.second) / 86400
    frame["time_of_day_sin"], frame["time_of_day_cos"] = np.sin(angle), np.cos(angle)
    return frame.astype(
        {c: float for c in frame.columns if pd.api.types.is_integer_dtype(frame[c]) and c != "time_idx"}
    )


def _add_lags(frame: pd.DataFrame, mine: pd.DataFrame, model: Model) -> None:
    if "season_lag" not in model.contract.settings.known:
        return
    season = model.contract.settings.season_steps
    for target in model.contract.targets:
        by_step = dict(zip(mine.step, mine[target.name], strict=True))
        past = frame[target.name][frame.step <= mine.step.max()].to_numpy(np.float32)
        center, scale = past[-1], np.abs(np.diff(past)).mean() + model.scaling.floor[target.name]
        lag = frame.step.map(lambda s, b=by_step, c=center: b.get(s - season, c))
        frame[f"{target.name}_season_lag"] = np.arcsinh((lag - center) / scale)


def _add_changes(frame: pd.DataFrame, past: pd.DataFrame, model: Model) -> None:
    """How each target moved over the last 1, 2, 4 and 8 steps, or since the window began."""
    for target in model.contract.targets:
        values = past[target.name].to_numpy(np.float32)
        scale = np.abs(np.diff(values)).mean() + model.scaling.floor[target.name]
        for steps in (1, 2, 4, 8):
            change = values[-1] - values[max(len(values) - 1 - steps, 0)]
            frame[f"{target.name}_change_{steps}"] = np.arcsinh(change / scale)


def _scalers(model: Model) -> dict[str, FunctionTransformer]:
    scaling = model.scaling

    def fixed(mean: float, deviation: float, *, zero: bool) -> FunctionTransformer:
        return FunctionTransformer(
            lambda x: np.asarray(x, float) * 0 if zero else (np.asarray(x, float) - mean) / deviation
        )

    calendar = {
        "hour": (11.5, 6.922), "day_of_week": (3, 2), "month": (6.5, 3.452), "is_weekend": (2 / 7, 0.4518),
        "time_of_day_sin": (0, 1 / np.sqrt(2)), "time_of_day_cos": (0, 1 / np.sqrt(2)),
    }  # fmt: skip
    scalers = {name: fixed(*values, zero=name in scaling.constant) for name, values in calendar.items()}
    for name, (mean, deviation) in scaling.covariates.items():
        zero = name in scaling.constant
        scalers[name] = FunctionTransformer(_asinh(mean, deviation, zero=zero))
    for name in model.layout.targets:
        level, spread = scaling.level[name], scaling.spread[name]
        scalers[f"{name}_center"] = FunctionTransformer(_clipped(lambda x, m=level, s=spread: (x - m) / s))
        scalers[f"{name}_scale"] = FunctionTransformer(_clipped(lambda x, s=spread: np.log(x / s)))
        scalers[f"{name}_season_lag"] = None
        for steps in (1, 2, 4, 8):
            scalers[f"{name}_change_{steps}"] = None
    scalers["relative_time_idx"] = scalers["encoder_length"] = None
    return {name: scalers[name] for name in model.layout.reals if name not in model.layout.targets}


def _asinh(mean: float, deviation: float, *, zero: bool) -> Callable[[Any], Any]:
    return lambda x: np.arcsinh((np.asarray(x, float) - mean) / deviation) * (0 if zero else 1)


def _clipped(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: np.clip(function(np.asarray(x, float)), -8, 8)


def predict(model: Model, frame: pd.DataFrame) -> np.ndarray:
    """[window, horizon, target, quantile] of the library's ``predict()``, in raw units."""
    contract, settings, layout = model.contract, model.contract.settings, model.layout
    normalizers = [WindowNormalizer(model.scaling.floor[t]) for t in layout.targets]
    encoders = {
        f.name: NaNLabelEncoder(add_nan=False).fit(pd.Series(f.symbols))
        for f in (*contract.categories, *contract.statics)
    }
    dataset = TimeSeriesDataSet(
        frame,
        time_idx="time_idx",
        target=layout.targets if len(layout.targets) > 1 else layout.targets[0],
        group_ids=["window"],
        min_encoder_length=settings.min_encoder_steps,
        max_encoder_length=settings.encoder_steps,
        min_prediction_length=settings.horizon_steps,
        max_prediction_length=settings.horizon_steps,
        static_categoricals=layout.statics,
        static_reals=layout.changes,
        time_varying_known_reals=[*layout.calendar.names, *layout.lags],
        time_varying_unknown_reals=layout.observed,
        time_varying_unknown_categoricals=layout.categories,
        target_normalizer=MultiNormalizer(normalizers) if len(normalizers) > 1 else normalizers[0],
        categorical_encoders={**encoders, "window": NaNLabelEncoder(add_nan=True)},
        scalers=_scalers(model),
        add_relative_time_idx=True,
        add_target_scales=True,
        predict_mode=True,
    )
    assert dataset.reals == layout.reals, "our order of inputs must be that of the library"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = model.network.predict(
            dataset.to_dataloader(train=False, batch_size=64, num_workers=0),
            mode="quantiles",
            return_index=True,
            trainer_kwargs={"logger": False, "enable_progress_bar": False, "accelerator": "cpu"},
        )
    output = result.output if isinstance(result.output, list) else [result.output]
    order = np.argsort(result.index["window"].astype(int).to_numpy())
    return torch.stack(list(output), dim=2).numpy()[order]
