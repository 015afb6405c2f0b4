import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_forecasting import TemporalFusionTransformer

from models import artifact, engine
from models.artifact import Model, Trained
from models.layout import Layout, Scaling
from models.network import build_network
from models.network_size import NetworkSize
from models.samples import History
from models.scaling import fit_scaling
from schemas.batch import EventBatch
from schemas.contract import Contract
from tests.models.small import RICH, VERSION, small_trained

START_MS = 1_767_225_600_000  # 2026-01-01, a Thursday


def events(contract: Contract, servers: int, steps: int, seed: int = 0, missing: float = 0.1) -> EventBatch:
    """Servers' samples twice a step, in time order, with gaps: random walks of very different sizes."""
    rng = np.random.default_rng(seed)
    per_step = 2
    times = START_MS + np.arange(steps * per_step, dtype=np.int64) * (contract.step_ms // per_step)
    n = len(times)
    batches = []
    for server in range(servers):
        batch = EventBatch.allocate(contract, n)
        batch.keys[:] = f"s{server}"
        batch.time[:] = times
        walk = np.abs(rng.normal(0, 10.0 ** (server % 3 - 1), batch.reals.shape).cumsum(0)) + 1
        batch.reals[:] = np.minimum(walk, 100)
        for column, field in enumerate(contract.enums):
            batch.enums[:, column] = (
                rng.integers(0, len(field.symbols), n) if field.role == "category" else server % len(field.symbols)
            )
        late_start = n // 2 if server % 2 else 0  # every second server is young: a short window
        batches.append(batch.take((rng.random(n) > missing) & (np.arange(n) >= late_start)))
    merged = EventBatch.concat(batches)
    return merged.take(np.argsort(merged.time, kind="stable"))


def random_network(layout: Layout, scaling: Scaling, size: NetworkSize, seed: int = 0) -> TemporalFusionTransformer:
    """A network with random weights that use every part of it: the library's own start with many zeros and ones."""
    torch.manual_seed(seed)
    network = build_network(layout, scaling, size).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def random_model(contract: Contract, history: History, folder: Path, seed: int = 0) -> Model:
    """A network with random weights that use every part of it, saved and loaded again as any artifact is."""
    layout = Layout(contract)
    scaling = fit_scaling(layout, history.step, history.reals)
    size = NetworkSize(hidden_size=16, attention_head_size=4, hidden_continuous_size=8)
    network = random_network(layout, scaling, size, seed)
    metadata = {"folder": str(folder.absolute() / VERSION)}
    trained = Trained(network, layout, scaling, size, unseen={}, metadata=metadata)
    return artifact.load(artifact.save(folder, VERSION, trained, card="random"))


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[[Contract, History], Model]:
    return lambda contract, history: random_model(contract, history, tmp_path)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model, that nobody may change."""
    return artifact.save(tmp_path_factory.mktemp("models"), VERSION, small_trained(RICH), card="# A card: ü")


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A copy of a saved model, to be damaged."""
    return Path(shutil.copytree(kept, tmp_path / VERSION))


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Graphs of the compiled engine are kept here, and not in the user's cache."""
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "engines_folder", lambda: folder)
        yield folder
