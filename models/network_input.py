"""The network's tensors from windows, as the library's own modules take them: for training and for the reference."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.layout import CHANGES, CLIP, Layout, Scaling, relative_steps
from models.normalizer import center_and_scale, normalise
from models.windows import WindowBatch
from schemas.batch import Ints


def level_feature(center: Tensor, level: float, spread: float) -> Tensor:
    """A window's level as a static input."""
    return ((center - level) / spread).clamp(-CLIP, CLIP)


def scale_feature(scale: Tensor, spread: float) -> Tensor:
    """A window's scale as a static input."""
    return torch.log(scale / spread).clamp(-CLIP, CLIP)


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
        _embedded(layout, name, windows.statics[:, j])[:, None].expand(-1, encoder)
        for j, name in enumerate(layout.statics)
    ]
    columns += [_embedded(layout, name, windows.categories[..., j]) for j, name in enumerate(layout.categories)]
    if not columns:
        return torch.zeros(len(windows), encoder, 0, dtype=torch.long)
    return torch.stack(columns, dim=-1)


def _embedded(layout: Layout, name: str, codes: Ints) -> Tensor:
    """Embedding rows of symbol positions."""
    return torch.from_numpy(layout.embedding_rows(name)[codes])
