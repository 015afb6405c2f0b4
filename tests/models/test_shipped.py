"""The model that ships: what `--model latest` finds where nobody has trained one."""

import json
from pathlib import Path

import pytest

from models import artifact
from models.artifact import Model
from models.evaluate import evaluate
from models.scores import skill
from producer.generate import generate
from schemas.contract import Contract
from schemas.fingerprint import differences
from schemas.history import read_history

MONDAY_MS = 1_773_014_400_000  # 2026-03-09, weeks after what it was trained on


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.chdir(tmp_path)
    return artifact.load(artifact.find("latest"), Contract.load())


def test_it_fits_the_shipped_contract(shipped: Model) -> None:
    """It loads, it is of the contract that ships, it is calibrated, and no symbol of the contract is unknown to it."""
    assert differences(shipped.contract, Contract.load()) == []
    assert "conformal" in shipped.config.stages
    assert shipped.network.state_dict()["input_embeddings.embeddings.status.weight"].shape == (8, 5)
    assert shipped.config.unseen_symbols == {}


def test_its_card_has_its_figures(shipped: Model) -> None:
    """The card names the model and shows its pictures, and the metadata hold what the card says of its skill."""
    folder = artifact.find("latest")
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")

    assert shipped.version in card
    for picture in ("fan_charts.png", "reliability.png", "skill_by_horizon.png"):
        assert f"({picture})" in card
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((folder / "training_metadata.json").read_text(encoding="utf-8"))["metrics"]
    assert set(metrics["targets"]) == {f.name for f in shipped.contract.targets}


def test_it_beats_the_baselines_on_a_fleet_it_never_saw(shipped: Model, tmp_path: Path) -> None:
    """Another seed, weeks later: pinball over all steps is well below the better baseline's for every target."""
    generate(tmp_path / "h", shipped.contract, servers=15, hours=72, start_ms=MONDAY_MS, seed=77)
    evaluation = evaluate(shipped, read_history([tmp_path / "h"], shipped.contract), max_windows=400)

    for target, horizons in evaluation.targets.items():
        gained = skill(horizons["all"], "pinball")
        assert gained is not None
        assert gained > 0.2, target
        coverage = horizons["all"]["model"].coverage80
        assert coverage is not None
        assert 0.65 < coverage < 0.92, target
