import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import artifact, engine
from models.artifact import WEIGHTS, Model
from models.samples import History
from schemas.contract import Contract
from schemas.errors import ArtifactError, InputError
from tests import contracts
from tests.models.conftest import events

CONTRACT = contracts.rich(step_seconds=3600, encoder_steps=12, min_encoder_steps=4, horizon_steps=5, known=["hour"])
# What serving is: no network is asked for, and forecasts come all the same.
SERVE = """
import sys
from pathlib import Path
import numpy as np
from models.artifact import load
from models.block import blank_windows
model = load(Path(sys.argv[1]), network=False)
values = model.runtime("llvm").forecast(blank_windows(model.contract, 3)).values
print(values.shape, np.isfinite(values).all(), "torch" in sys.modules)
"""


@pytest.fixture
def history() -> History:
    return History(CONTRACT, events(CONTRACT, servers=4, steps=40))


@pytest.fixture
def model(make_model: Callable[[Contract, History], Model], history: History, engines: Path) -> Model:
    assert engines.is_dir()
    return make_model(CONTRACT, history)


def test_the_engines_agree(model: Model, history: History) -> None:
    """Published quantiles of the compiled engine are the reference's, full windows and short ones, offsets included."""
    windows = history.windows(history.samples)
    assert windows.lengths.min() < CONTRACT.settings.encoder_steps == windows.lengths.max()

    expected, got = (model.runtime(name).forecast(windows) for name in ("torch", "llvm"))

    assert (np.abs(got.values - expected.values) / (1 + np.abs(expected.values))).max() <= 1e-4
    assert got.finite.all()


def test_the_company_does_not_show_at_all(model: Model, history: History) -> None:
    """In the compiled engine a window's forecast is the same to the last bit, wherever in a block and with whomever."""
    runtime, windows = model.runtime("llvm"), history.windows(history.samples)
    whole = runtime.forecast(windows).values
    order = np.random.default_rng(0).permutation(len(windows))

    assert np.array_equal(runtime.forecast(windows.take(order)).values, whole[order])
    alone = [runtime.forecast(windows.take(slice(row, row + 1))).values[0] for row in range(0, len(windows), 7)]
    assert np.array_equal(np.stack(alone), whole[::7])


def test_serving_needs_no_pytorch(model: Model, tmp_path: Path) -> None:
    """A process that serves never imports PyTorch: the graphs are made by another, once, and then found."""
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", SERVE, str(model.folder)]
    for _ in range(2):
        done = subprocess.run(
            command, env={"XDG_CACHE_HOME": str(folder), "PATH": ""}, capture_output=True, text=True, check=False
        )
        assert done.stdout.splitlines()[-1:] == ["(3, 2, 7, 5) True False"], done.stderr
    assert "preparing the model" not in done.stdout, "the second process found them"


def test_without_a_cache_folder_it_serves_all_the_same(
    model: Model, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache cannot be written, as in a container with a read-only file system, graphs go with the process."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(engine, "engines_folder", lambda: tmp_path / "file" / "engines")

    assert model.runtime("llvm").forecast(history.windows(history.samples)).finite.all()


def test_what_a_power_cut_left_of_it_is_made_again(model: Model, history: History, engines: Path) -> None:
    """A prepared model that cannot be read is no reason not to start."""
    model.runtime("llvm")
    newest = max(engines.iterdir(), key=lambda folder: folder.stat().st_mtime)
    (newest / "weights.npy").write_bytes(b"")

    assert model.runtime("llvm").forecast(history.windows(history.samples)).finite.all()
    assert (newest / "weights.npy").stat().st_size > 0


def test_weights_that_were_changed_are_refused(model: Model) -> None:
    """Also where the graphs are in the cache, and the network is never built."""
    model.runtime("llvm")
    served = artifact.load(model.folder, network=False)
    path = model.folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    with pytest.raises(ArtifactError, match="it was changed or damaged"):
        served.runtime("llvm")


def test_damage_is_told_by_the_process_that_makes_the_graphs(model: Model) -> None:
    """What is wrong with an artifact that was never served comes back as its own sentence."""
    path = model.folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    served = replace(artifact.load(model.folder, network=False), version="tft_model_20260101_000001")

    with pytest.raises(ArtifactError, match=WEIGHTS):
        served.runtime("llvm")


def test_an_unknown_engine_is_refused(model: Model) -> None:
    """By name, with those that there are."""
    with pytest.raises(InputError, match=r"engine 'abacus' is none of auto, llvm, torch, cuda"):
        model.runtime("abacus")


def test_old_graphs_are_forgotten(tmp_path: Path) -> None:
    """Only those last used are kept."""
    for number in range(engine._KEPT + 3):
        folder = tmp_path / f"model-{number:02d}"
        folder.mkdir()
        (folder / "weights.npy").write_text("")
        os.utime(folder, (number, number))

    engine._prune(tmp_path)

    assert sorted(folder.name for folder in tmp_path.iterdir()) == [
        f"model-{n:02d}" for n in range(3, engine._KEPT + 3)
    ]
