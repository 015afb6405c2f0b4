import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from models import artifact
from models.artifact import CARD, CONFIG, METADATA, WEIGHTS, Model, Trained
from models.network_size import NetworkSize
from models.samples import History
from schemas.contract import Contract
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from tests import contracts
from tests.models.conftest import events
from tests.models.small import KNOWN, RICH, VERSION, small_trained


def outputs(model: Model | Trained) -> np.ndarray:
    """Forecasts of some windows."""
    contract = model.layout.contract
    history = History(contract, events(contract, servers=3, steps=20))
    return model.runtime().forecast(history.windows(history.samples)).values


def test_saved_and_loaded_forecasts_bit_for_bit(kept: Path) -> None:
    """A loaded model, rebuilt from its files alone, gives exactly the numbers of the network that was saved."""
    original = small_trained(RICH)
    model = artifact.load(kept)
    before = outputs(original)

    assert np.array_equal(outputs(model), before)
    assert np.ptp(before, axis=0).max() > 0
    assert model.scaling == original.scaling
    assert (model.version, model.fingerprint, model.metadata) == (VERSION, fingerprint(RICH), {"note": "test"})


def test_what_lies_in_the_folder(kept: Path) -> None:
    """Safetensors, JSON and text, nothing pickled; the fingerprint stands in both, and no hidden file is left."""
    assert sorted(p.name for p in kept.iterdir()) == sorted([WEIGHTS, CONFIG, METADATA, "MODEL_CARD.md"])
    for path in kept.iterdir():
        head = path.read_bytes()[:16]
        assert not head.startswith((b"\x80", b"PK")), f"{path.name} looks like a pickle or a zip"
    config = json.loads((kept / CONFIG).read_text())
    with safetensors.safe_open(kept / WEIGHTS, "pt") as file:
        assert file.metadata()["contract_fingerprint"] == config["contract_fingerprint"] == fingerprint(RICH)
    assert config["contract"] == RICH.schema
    assert [p.name for p in kept.parent.iterdir()] == [VERSION]


def test_tied_tensors_are_stored_once(kept: Path) -> None:
    """Parameters that the network shares between names lie in the file once, and are shared again when loaded."""
    network = artifact.load(kept).network
    names = network.state_dict(keep_vars=True)
    tied = len(names) - len({id(t) for t in names.values()})

    assert tied > 0
    assert len(safetensors.torch.load_file(kept / WEIGHTS)) == len(names) - tied


def test_the_shapes_of_the_default_model(tmp_path: Path) -> None:
    """With the shipped contract and the default sizes, the status embedding is [8, 5] and the selection [10, 149]."""
    contract = Contract.load()
    path = artifact.save(tmp_path, VERSION, small_trained(contract, NetworkSize()), card="")
    tensors = safetensors.torch.load_file(path / WEIGHTS)

    assert list(tensors["input_embeddings.embeddings.status.weight"].shape) == [8, 5]
    assert list(tensors["encoder_variable_selection.flattened_grn.fc1.weight"].shape) == [10, 149]
    artifact.load(path, contract)


def test_what_may_differ_is_taken_from_the_contract(folder: Path) -> None:
    """Thresholds and lateness may differ from training: the model loads and serves the contract given."""
    given = contracts.rich(known=KNOWN, allowed_lateness_seconds=1)
    model = artifact.load(folder, given)

    assert model.contract is given
    assert np.array_equal(outputs(model), outputs(artifact.load(folder)))


def test_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """'latest' is the newest by name in ./models, files and half-written folders aside; else the shipped one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(artifact, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(InputError, match="fleetcast train"):
        artifact.find("latest")

    (tmp_path / "shipped" / "tft_model_20990101_000000").mkdir(parents=True)
    assert artifact.find("latest") == tmp_path / "shipped" / "tft_model_20990101_000000"

    for name in (
        "tft_model_20260101_000000",
        "tft_model_20260201_000000",
        ".tft_model_20270101_000000.x",
        "tft_model_x",
    ):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "models" / "tft_model_20280101_000000").write_text("a file")
    assert artifact.find("latest") == tmp_path / "models" / "tft_model_20260201_000000"
    assert artifact.find("some/where") == Path("some/where")


def test_links_within_the_folder(folder: Path) -> None:
    """A link that stays in the model's folder is followed: Kubernetes mounts files so."""
    (folder / "..data").mkdir()
    for name in (WEIGHTS, CONFIG, METADATA):
        (folder / name).rename(folder / "..data" / name)
        (folder / name).symlink_to(Path("..data") / name)

    assert artifact.load(folder).version == VERSION


def test_files_beside_the_card(tmp_path: Path) -> None:
    """Pictures are saved beside the card, whatever they hold, readable by all; loading looks at none of them."""
    files = {"fan_charts.png": b"\x89PNG", "notes": b""}
    folder = artifact.save(tmp_path, VERSION, small_trained(RICH), card="", files=files)

    assert {name: (folder / name).read_bytes() for name in files} == files
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())
    artifact.load(folder)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x.png", "/x.png", "a/b.png", ".hidden", "x\n", "x\0", CONFIG, CARD]
)
def test_files_with_paths(tmp_path: Path, name: str) -> None:
    """A file whose name is a path, hidden, or one of the artifact's own is not saved, and nothing else either."""
    with pytest.raises(InputError, match="no name for a file"):
        artifact.save(tmp_path, VERSION, small_trained(RICH), card="", files={name: b""})

    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_overwritten(folder: Path) -> None:
    """Saving under a name that exists is refused, and what is there stays."""
    before = (folder / WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="exists"):
        artifact.save(folder.parent, VERSION, small_trained(RICH, seed=5), card="")

    assert (folder / WEIGHTS).read_bytes() == before


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    """A save that fails half way leaves no folder behind, under no name."""
    broken = replace(small_trained(RICH), metadata={"not": object()})
    with pytest.raises(TypeError):
        artifact.save(tmp_path, VERSION, broken, card="")

    assert list(tmp_path.iterdir()) == []
