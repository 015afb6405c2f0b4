"""Which input is where: the network's variables from the contract alone, and the tensors from windows.

The order is the one that pytorch-forecasting's ``from_dataset`` gives the same variables, so that its ``predict()`` can
run our network as it is.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from models.calendar import Calendar
from models.normalizer import center_and_scale, normalise
from models.windows import WindowBatch
from schemas.batch import Ints
from schemas.contract import Contract
from schemas.errors import ContractError

# How a target moved of late, as static inputs: they reach every step of the horizon at once, where the network needs
# many more windows to learn it through its recurrence (docs/adr/0006-recent-changes-as-inputs.md).
CHANGES = (1, 2, 4, 8)
_MOST = {"inputs": 256, "symbols": 4_096, "quantiles": 256}  # more takes minutes to build, whatever its tensors' size
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
        changes: of each target over the last 1, 2, 4 and 8 steps.
        static_reals: the changes, the window's length, then level and scale of each target.
        known: known reals, the relative time index last.
        observed: targets, then covariates. reals: all of them in the network's order.
        statics, categories: categorical variables; their symbols in ``vocabulary``, sorted as NaNLabelEncoder sorts.
    """

    def __init__(self, contract: Contract) -> None:
        """Derive it.

        Raises:
            ContractError: a field has the name of an input that the contract asks for, or there are too many of them.
        """
        check_size(contract)
        self.contract = contract
        self.targets = [variable(f.name) for f in contract.targets]
        self.covariates = [variable(f.name) for f in contract.covariates]
        self.observed = self.targets + self.covariates
        scales = [f"{t}_{what}" for t in self.targets for what in ("center", "scale")]
        self.changes = [f"{t}_change_{steps}" for t in self.targets for steps in CHANGES]
        self.static_reals = [*self.changes, "encoder_length", *scales]
        self.calendar = Calendar.of(contract.settings.known, contract.settings.step_seconds)
        self.lags = [f"{t}_season_lag" for t in self.targets] if "season_lag" in contract.settings.known else []
        self.known = [*self.calendar.names, *self.lags, "relative_time_idx"]
        self.reals = self.static_reals + self.known + self.observed
        self.statics = [variable(f.name) for f in contract.statics]
        self.categories = [variable(f.name) for f in contract.categories]
        self.vocabulary = {variable(f.name): sorted(f.symbols) for f in (*contract.statics, *contract.categories)}
        names = [*self.reals, *self.statics, *self.categories]
        if doubled := {n for n in names if names.count(n) > 1}:
            raise ContractError(f"field {min(doubled)!r} has the name of an input that Fleetcast makes itself")
        self._tables = {
            variable(f.name): torch.tensor([self.vocabulary[variable(f.name)].index(s) for s in f.symbols])
            for f in (*contract.statics, *contract.categories)
        }

    def at(self, name: str) -> int:
        """Column of a real variable."""
        return self.reals.index(name)

    def index(self, name: str, codes: Ints) -> Tensor:
        """Embedding rows of symbol positions; symbols are sorted there, whatever the schema's order."""
        return self._tables[name][torch.from_numpy(codes)]


def check_size(contract: Contract) -> None:
    """Refuse what would take minutes to build.

    Raises:
        ContractError: with the number and the limit.
    """
    categorical = contract.categories + contract.statics
    symbols = sum(len(field.symbols) for field in categorical)
    quantiles = len(contract.settings.quantiles)
    numbers = {"inputs": len(contract.inputs + categorical), "symbols": symbols, "quantiles": quantiles}
    for what, number in numbers.items():
        if number > _MOST[what]:
            raise ContractError(f"the contract has {number} {what}, a model may have {_MOST[what]}")


def variable(name: str) -> str:
    """A contract's field name as a variable's: torch modules refuse names of their own attributes (e.g. ``type``)."""
    return f"{name}_" if hasattr(nn.ModuleDict, name) or hasattr(nn.ModuleDict(), name) else name


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
class Table:
    """An input that takes few values: values [rows], and the row of each step, [B, encoder + horizon]."""

    values: Tensor
    rows: Tensor


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """What the network takes, and what brings its output back.

    Attributes:
        cont: [B, encoder + horizon, reals]. cat: [B, encoder, statics + categories] embedding rows.
        lengths: [B] steps of the encoder that are not padding.
        tables: known inputs that take few values, beside their columns in ``cont``. Rows of padding mean nothing.
        center, scale: [B, targets].
    """

    cont: Tensor
    cat: Tensor
    lengths: Tensor
    tables: dict[str, Table]
    center: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> "NetworkInput":
        """The same on a device."""
        tables = {name: Table(t.values.to(device), t.rows.to(device)) for name, t in self.tables.items()}
        cont, cat, lengths = self.cont.to(device), self.cat.to(device), self.lengths.to(device)
        return NetworkInput(cont, cat, lengths, tables, self.center.to(device), self.scale.to(device))


def network_input(layout: Layout, scaling: Scaling, windows: WindowBatch) -> NetworkInput:
    """Tensors straight from windows; the network's output stays in normalised units."""
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
        z = normalise(reals[..., j], center[:, j, None], scale[:, j, None])
        cont[:, :encoder, layout.at(name)] = torch.where(inside[..., 0], z, 0)
        cont[..., layout.at(f"{name}_center")] = level_feature(center[:, j], scaling.level[name], scaling.spread[name])[
            :, None
        ]
        cont[..., layout.at(f"{name}_scale")] = scale_feature(scale[:, j], scaling.spread[name])[:, None]
        _changes(cont, layout, name, history[:, j], (lengths, center[:, j], scale[:, j]))
    cont[..., layout.at("encoder_length")] = ((lengths - 0.5 * encoder) / encoder * 2)[:, None]
    for j, name in enumerate(layout.covariates, start=n_targets):
        feature = covariate_feature(reals[..., j], *scaling.covariates[name])
        cont[:, :encoder, layout.at(name)] = torch.where(inside[..., 0], feature, 0)
    tables = _known(cont, layout, windows, center, scale)
    for name in scaling.constant:
        cont[..., layout.at(name)] = 0
        if name in tables:
            tables[name] = Table(torch.zeros(1), torch.zeros_like(tables[name].rows))
    return NetworkInput(cont, _categoricals(layout, windows), lengths, tables, center, scale)


def _changes(cont: Tensor, layout: Layout, name: str, past: Tensor, window: tuple[Tensor, Tensor, Tensor]) -> None:
    """Fill a target's changes in place. ``past``: [B, encoder]. ``window``: [B] each, length, centre and scale."""
    lengths, center, scale = window
    for steps in CHANGES:  # a window that is shorter is looked at from its first step
        before = past.gather(1, (lengths - 1 - steps).clamp(min=0)[:, None])[:, 0]
        cont[..., layout.at(f"{name}_change_{steps}")] = normalise(center, before, scale)[:, None]


def relative_steps(layout: Layout, lengths: Ints) -> Ints:
    """[B, encoder + horizon] steps relative to the first forecast step; the horizon follows the padding."""
    encoder, horizon = layout.contract.settings.encoder_steps, layout.contract.settings.horizon_steps
    position = np.arange(encoder + horizon)
    return np.where(position < encoder, position - lengths[:, None], position - encoder)


def _known(cont: Tensor, layout: Layout, windows: WindowBatch, center: Tensor, scale: Tensor) -> dict[str, Table]:
    """Fill the known inputs in place; those that take few values come back as tables too."""
    encoder, horizon = layout.contract.settings.encoder_steps, layout.contract.settings.horizon_steps
    relative = relative_steps(layout, windows.lengths)
    padded = torch.from_numpy((relative >= 0) & (np.arange(relative.shape[1]) < encoder))
    steps = windows.last_step[:, None] + 1 + relative
    tables, columns = {}, []
    for name in layout.calendar.names:
        values, rows = torch.tensor(layout.calendar.table(name)), torch.from_numpy(layout.calendar.rows(name, steps))
        columns.append(values[rows].unsqueeze(-1))
        if layout.calendar.small(name):
            tables[name] = Table(values, rows)
    if layout.lags:
        lag = torch.from_numpy(windows.lag)
        columns.append(normalise(lag, center[:, None], scale[:, None]))
    rows = torch.where(padded, 0, torch.from_numpy(relative + encoder))
    tables["relative_time_idx"] = Table(torch.arange(-encoder, horizon) / encoder, rows)
    columns.append(torch.from_numpy(relative.astype(np.float32) / encoder).unsqueeze(-1))
    known = torch.cat(columns, dim=-1)
    first = layout.at(layout.known[0])
    cont[..., first : first + known.shape[-1]] = torch.where(padded.unsqueeze(-1), 0, known)
    return tables


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
