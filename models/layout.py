"""Which input is where: the network's variables from the contract alone, and the tensors from windows.

The order is the one that pytorch-forecasting's ``from_dataset`` gives the same variables, so that its ``predict()`` can
run our network as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.normalizer import center_and_scale
from models.windows import WindowBatch
from schemas.batch import Ints
from schemas.contract import Contract
from schemas.errors import ContractError

DAY_SECONDS = 86_400
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, Monday is 0
_CLIP = 8.0  # of level and scale features: a server far outside what training saw stays near its edge


@dataclass(frozen=True, slots=True)
class Scaling:
    """The scalers that training fixed; kept in the artifact.

    Attributes:
        floor: by target, added to a window's scale. level, spread: by target, mean and standard deviation of its level.
        covariates: by covariate, (mean, standard deviation).
        constant: names of inputs that were constant in training and are fed as 0.
    """

    floor: dict[str, float]
    level: dict[str, float]
    spread: dict[str, float]
    covariates: dict[str, tuple[float, float]] = field(default_factory=dict)
    constant: tuple[str, ...] = ()


class Layout:
    """Names and order of the network's variables.

    Attributes:
        static_reals: the window's length, then level and scale of each target.
        known: known reals, the relative time index last.
        observed: targets, then covariates. reals: all of them in the network's order.
        statics, categories: categorical variables; their symbols in ``vocabulary``, sorted as NaNLabelEncoder sorts.
    """

    def __init__(self, contract: Contract) -> None:
        """Derive it.

        Raises:
            ContractError: a field has the name of an input that the contract asks for.
        """
        self.contract = contract
        self.targets = [variable(f.name) for f in contract.targets]
        self.covariates = [variable(f.name) for f in contract.covariates]
        self.observed = self.targets + self.covariates
        scales = [f"{t}_{what}" for t in self.targets for what in ("center", "scale")]
        self.static_reals = ["encoder_length", *scales]
        self.calendar = _calendar_names(contract.settings.known)
        self.lags = [f"{t}_season_lag" for t in self.targets] if "season_lag" in contract.settings.known else []
        self.known = [*self.calendar, *self.lags, "relative_time_idx"]
        self.reals = self.static_reals + self.known + self.observed
        self.statics = [variable(f.name) for f in contract.statics]
        self.categories = [variable(f.name) for f in contract.categories]
        self.vocabulary = {variable(f.name): sorted(f.symbols) for f in (*contract.statics, *contract.categories)}
        names = [*self.reals, *self.statics, *self.categories]
        if doubled := {n for n in names if names.count(n) > 1}:
            raise ContractError(f"field {min(doubled)!r} has the name of an input that Fleetcast makes itself")
        self._tables = {
            variable(f.name): torch.tensor([sorted(f.symbols).index(s) for s in f.symbols])
            for f in (*contract.statics, *contract.categories)
        }

    def at(self, name: str) -> int:
        """Column of a real variable."""
        return self.reals.index(name)

    def index(self, name: str, codes: Ints) -> Tensor:
        """Embedding rows of symbol positions; symbols are sorted there, whatever the schema's order."""
        return self._tables[name][torch.from_numpy(codes)]


def variable(name: str) -> str:
    """A contract's field name as a variable's: torch modules refuse names of their own attributes (e.g. ``type``)."""
    return f"{name}_" if hasattr(nn.ModuleDict, name) or hasattr(nn.ModuleDict(), name) else name


def _calendar_names(known: tuple[str, ...]) -> list[str]:
    names = []
    for name in known:
        if name == "time_of_day":
            names += ["time_of_day_sin", "time_of_day_cos"]
        elif name != "season_lag":
            names.append(name)
    return names


def calendar(names: list[str], steps: Ints, step_seconds: int) -> NDArray[np.float32]:
    """Known inputs of UTC step starts, scaled by fixed arithmetic to mean 0 and variance 1 over their range.

    Args:
        names: of the inputs.
        steps: [...] step indices since the epoch.
        step_seconds: length of a step.

    Returns:
        [..., len(names)] float32.
    """
    seconds = steps * step_seconds
    days = seconds // DAY_SECONDS
    weekday = (days + _EPOCH_WEEKDAY) % 7
    angle = 2 * np.pi * (seconds % DAY_SECONDS) / DAY_SECONDS
    columns: dict[str, Callable[[], Any]] = {
        "hour": lambda: (seconds % DAY_SECONDS // 3600 - 11.5) / 6.922,
        "day_of_week": lambda: (weekday - 3) / 2.0,
        "month": lambda: (days.astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12 - 5.5) / 3.452,
        "is_weekend": lambda: ((weekday >= 5) - 2 / 7) / 0.4518,
        "time_of_day_sin": lambda: np.sqrt(2) * np.sin(angle),
        "time_of_day_cos": lambda: np.sqrt(2) * np.cos(angle),
    }
    values = [columns[name]() for name in names]
    return np.stack(values, axis=-1).astype(np.float32) if values else np.zeros((*steps.shape, 0), np.float32)


def level_feature(center: Tensor, level: float, spread: float) -> Tensor:
    """A window's level as a static input."""
    return ((center - level) / spread).clamp(-_CLIP, _CLIP)


def scale_feature(scale: Tensor, spread: float) -> Tensor:
    """A window's scale as a static input."""
    return torch.log(scale / spread).clamp(-_CLIP, _CLIP)


def covariate_feature(values: Tensor, mean: float, deviation: float) -> Tensor:
    """A covariate as an input."""
    return torch.asinh((values - mean) / deviation)


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """What the network's ``forward`` takes, and what brings its output back.

    Attributes:
        x: the dictionary for ``forward``. center, scale: [B, targets].
    """

    x: dict[str, Tensor | list[Tensor]]
    center: Tensor
    scale: Tensor


def network_input(layout: Layout, scaling: Scaling, windows: WindowBatch) -> NetworkInput:
    """Tensors straight from windows; the output of ``forward`` stays in normalised units.

    The encoder is as wide as the contract says; ``forward`` needs one window of full length in the batch.
    """
    settings = layout.contract.settings
    encoder, horizon = settings.encoder_steps, settings.horizon_steps
    rows, n_targets = len(windows), len(layout.targets)
    reals = torch.from_numpy(windows.reals)
    lengths = torch.from_numpy(windows.lengths)
    floor = torch.tensor([scaling.floor[t] for t in layout.targets], dtype=torch.float32)
    history = reals[..., :n_targets].transpose(1, 2)  # [B, T, E]
    center, scale = center_and_scale(history, lengths[:, None].expand(-1, n_targets), floor)
    cont = torch.zeros(rows, encoder + horizon, len(layout.reals))
    inside = (torch.arange(encoder) < lengths[:, None]).unsqueeze(-1)
    for j, name in enumerate(layout.targets):
        z = torch.asinh((reals[..., j] - center[:, j, None]) / scale[:, j, None])
        cont[:, :encoder, layout.at(name)] = torch.where(inside[..., 0], z, 0)
        cont[..., layout.at(f"{name}_center")] = level_feature(center[:, j], scaling.level[name], scaling.spread[name])[
            :, None
        ]
        cont[..., layout.at(f"{name}_scale")] = scale_feature(scale[:, j], scaling.spread[name])[:, None]
    cont[..., layout.at("encoder_length")] = ((lengths - 0.5 * encoder) / encoder * 2)[:, None]
    for j, name in enumerate(layout.covariates, start=n_targets):
        feature = covariate_feature(reals[..., j], *scaling.covariates[name])
        cont[:, :encoder, layout.at(name)] = torch.where(inside[..., 0], feature, 0)
    _known(cont, layout, windows, center, scale)
    for name in scaling.constant:
        cont[..., layout.at(name)] = 0
    x: dict[str, Tensor | list[Tensor]] = {
        "encoder_cat": _categoricals(layout, windows),
        "decoder_cat": torch.zeros(rows, horizon, len(layout.statics) + len(layout.categories), dtype=torch.long),
        "encoder_cont": cont[:, :encoder],
        "decoder_cont": cont[:, encoder:],
        "encoder_lengths": lengths,
        "decoder_lengths": torch.full((rows,), horizon),
        "target_scale": _unit_scale(rows, n_targets),
    }
    return NetworkInput(x, center, scale)


def relative_steps(layout: Layout, lengths: Ints) -> Ints:
    """[B, encoder + horizon] steps relative to the first forecast step; the horizon follows the padding."""
    encoder, horizon = layout.contract.settings.encoder_steps, layout.contract.settings.horizon_steps
    position = np.arange(encoder + horizon)
    return np.where(position < encoder, position - lengths[:, None], position - encoder)


def _known(cont: Tensor, layout: Layout, windows: WindowBatch, center: Tensor, scale: Tensor) -> None:
    """Fill the known inputs in place."""
    settings = layout.contract.settings
    relative = relative_steps(layout, windows.lengths)
    padded = torch.from_numpy((relative >= 0) & (np.arange(relative.shape[1]) < settings.encoder_steps))
    steps = windows.last_step[:, None] + 1 + relative
    values = [torch.from_numpy(calendar(layout.calendar, steps, settings.step_seconds))]
    if layout.lags:
        lag = torch.from_numpy(windows.lag)
        values.append(torch.asinh((lag - center[:, None]) / scale[:, None]))
    values.append(torch.from_numpy(relative.astype(np.float32) / settings.encoder_steps).unsqueeze(-1))
    first = layout.at(layout.known[0])
    known = torch.cat(values, dim=-1)
    cont[..., first : first + known.shape[-1]] = torch.where(padded.unsqueeze(-1), 0, known)


def _categoricals(layout: Layout, windows: WindowBatch) -> Tensor:
    """[B, encoder, statics + categories] embedding rows."""
    encoder = layout.contract.settings.encoder_steps
    columns = [
        layout.index(name, windows.statics[:, j])[:, None].expand(-1, encoder) for j, name in enumerate(layout.statics)
    ]
    columns += [layout.index(name, windows.categories[..., j]) for j, name in enumerate(layout.categories)]
    if not columns:
        return torch.zeros(len(windows), encoder, 0, dtype=torch.long)
    return torch.stack(columns, dim=-1)


def _unit_scale(rows: int, n_targets: int) -> Tensor | list[Tensor]:
    unit = torch.tensor([[0.0, 1.0]]).expand(rows, -1)
    return [unit] * n_targets if n_targets > 1 else unit
