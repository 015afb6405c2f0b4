"""What is measured with: models, contracts, windows and events of the shipped contract's shape, made from a seed."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from models import artifact
from models.artifact import Model, Trained
from models.layout import Layout, Scaling
from models.network_size import NetworkSize
from models.samples import History
from models.windows import WindowBatch
from producer.fleet import Fleet
from schemas.batch import EventBatch, Ints
from schemas.contract import Contract
from schemas.registry import Registry

START_MS = 1_767_225_600_000  # 2026-01-01, the beginning of a step
RANDOM = "tft_model_20260101_000000"
_FLEET = 50  # servers that windows are drawn from
_NEVER = 2_000_000_000  # steps: since the epoch, no step has come that far


class Offline:
    """The registry's two questions, answered without one."""

    def __init__(self) -> None:
        """Nothing registered."""
        self._schemas: list[dict[str, Any]] = []

    def schema_id(self, _topic: str, schema: dict[str, Any]) -> int:
        """Register and look up at once."""
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._schemas.index(schema) + 1

    def writer_schema(self, schema_id: int) -> dict[str, Any] | None:
        """The schema of an id."""
        return self._schemas[schema_id - 1] if 1 <= schema_id <= len(self._schemas) else None

    def as_registry(self) -> Registry:
        """For those who ask for a registry by its type; they use no more than these two questions."""
        return cast("Registry", self)


def latest() -> tuple[Path, Model]:
    """The model that ``latest`` names, by default the one that ships."""
    folder = artifact.find("latest")
    return folder, artifact.load(folder)


def one_target(contract: Contract) -> Contract:
    """The contract with its first target alone; the others are what it is forecast from."""
    schema = json.loads(json.dumps(contract.schema))
    first = contract.targets[0].name
    for field in schema["fields"]:
        if field["fleetcast"]["role"] == "target" and field["name"] != first:
            field["fleetcast"] = {"role": "covariate"}
    return Contract(schema)


def without_forecasts(contract: Contract) -> Contract:
    """The contract under which no forecast is due, and which every model of the contract fits."""
    schema = dict(contract.schema)
    schema["fleetcast"] = {**schema["fleetcast"], "forecast_every_steps": _NEVER}
    return Contract(schema)


def random_model(contract: Contract, root: Path, size: NetworkSize) -> Path:
    """A network with random weights, saved as any artifact is; where."""
    from models.network import build_network  # noqa: PLC0415  PyTorch: seconds and half a gigabyte

    layout = Layout(contract)
    ones = dict.fromkeys(layout.targets, 1.0)
    covariates = dict.fromkeys(layout.covariates, (50.0, 20.0))
    scaling = Scaling(
        floor=dict.fromkeys(layout.targets, 0.5),
        level=dict.fromkeys(layout.targets, 50.0),
        spread={**ones, **dict.fromkeys(layout.targets, 20.0)},
        covariates=covariates,
    )
    network = build_network(layout, scaling, size)
    trained = Trained(network, layout, scaling, size, unseen={}, metadata={})
    return artifact.save(root, RANDOM, trained, card="random weights")


def lengths(contract: Contract, n: int, *, short: bool, seed: int = 0) -> Ints:
    """[n] steps of full windows, or of short ones of all lengths that are long enough."""
    settings = contract.settings
    if not short:
        return np.full(n, settings.encoder_steps, np.int64)
    rng = np.random.default_rng(seed)
    return rng.integers(settings.min_encoder_steps, settings.encoder_steps, n).astype(np.int64)


def windows(contract: Contract, length: Ints, seed: int = 0) -> WindowBatch:
    """Windows of a simulated fleet, of ``length`` [B] steps each.

    Not of random numbers: far from what a network has seen, float32 alone was found to move its output by up to 7e-4.
    """
    encoder, n = contract.settings.encoder_steps, len(length)
    fleet = Fleet(contract, _FLEET, seed)
    ticks = encoder + max(24, 2 * n // _FLEET)
    history = History(contract, fleet.metrics(START_MS, contract.settings.step_seconds, ticks))
    full = np.flatnonzero(history.samples.available >= encoder)
    chosen = np.random.default_rng(seed).choice(full, n, replace=len(full) < n)
    return history.windows(history.samples.take(np.sort(chosen)), length)


def server_names(n: int) -> NDArray[np.object_]:
    """[n] ids of eight characters."""
    return np.array([f"s{i:07d}" for i in range(n)], object)


def events(contract: Contract, names: NDArray[np.object_], first_step: int, steps: int, per_step: int) -> EventBatch:
    """``per_step`` samples of each server in each of ``steps`` steps, in time order; every value present."""
    rng = np.random.default_rng(first_step)
    servers, ticks = len(names), steps * per_step
    batch = EventBatch.allocate(contract, servers * ticks)
    tick_ms = contract.step_ms // per_step
    batch.keys[:] = np.tile(names, ticks)
    batch.time[:] = (first_step * contract.step_ms + np.arange(ticks) * tick_ms).repeat(servers)
    batch.reals[:] = rng.uniform(5, 60, batch.reals.shape)
    for column, field in enumerate(contract.enums):
        batch.enums[:, column] = rng.integers(0, len(field.symbols), len(batch))
    return batch
