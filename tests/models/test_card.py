from pathlib import Path

import numpy as np
import pytest

from models import artifact
from models.artifact import Trained
from models.card import model_card
from models.evaluate import evaluate_trained, skill
from models.network import NetworkSize
from models.train import TrainingOptions, train
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.fingerprint import fingerprint
from tests import contracts
from tests.models.conftest import events

VERSION = "tft_model_20260101_000000"
CONTRACT = contracts.rich(known=["hour", "month"], quantiles=[0.1, 0.5, 0.9])


@pytest.fixture(scope="module")
def history() -> EventBatch:
    batch = events(CONTRACT, servers=3, steps=60)
    batch.enums[:, 0] = np.where(batch.enums[:, 0] == 2, 0, batch.enums[:, 0])  # nobody is ever busy
    return batch


@pytest.fixture(scope="module")
def trained(history: EventBatch) -> Trained:
    size = NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4)
    return train(CONTRACT, history, TrainingOptions(epochs=2, size=size, epoch_windows=64))


def test_says_what_was_trained_on_what(trained: Trained, history: EventBatch) -> None:
    """Data, its hash, the contract's fingerprint, options, every epoch's loss and what training never saw."""
    card = model_card(VERSION, trained, None)

    assert card.startswith(f"# {VERSION}\n")
    assert f"| events | {len(history):,} |" in card
    assert "| servers | 3 |" in card
    assert trained.metadata["data_sha256"] in card
    assert fingerprint(CONTRACT) in card
    assert "| `hidden_size` | 8 |" in card
    assert "| `epoch_windows` | 64 |" in card
    for epoch, losses in enumerate(trained.metadata["losses"], start=1):
        assert f"| {epoch} | {losses['train']:.4f} | {losses['validation']:.4f} |" in card
    assert card.count("| kept |") == 1
    assert "symbols of `state` never seen, embedded as the mean of those that were: `busy`" in card
    assert "fed as 0: `hour`, `month`" in card
    assert "Not measured." in card


def test_shows_measured_skill(trained: Trained, history: EventBatch) -> None:
    """With an evaluation, each target and horizon has its row, and where a baseline is better the limits say so."""
    cut = int(history.time[-1]) // CONTRACT.step_ms - 15
    evaluation = evaluate_trained(trained, history, cut)
    card = model_card(VERSION, trained, evaluation)

    for target, horizons in evaluation.targets.items():
        for horizon, scores in horizons.items():
            assert f"| {target} | {horizon} | {scores['model'].mae:.4g} |" in card
        behind = [horizon for horizon, scores in horizons.items() if (skill(scores, "mae") or 0) < 0]
        line = f"- mae of `{target}` is worse than the better baseline's at horizon {', '.join(behind)}."
        assert (line in card) if behind else (f"- mae of `{target}`" not in card)
    assert "Not measured." not in card
    assert f"{evaluation.windows} of {evaluation.candidates} windows of 3 servers" in card


def test_every_table_has_its_columns(trained: Trained, history: EventBatch) -> None:
    """Lines of one table have the same number of cells: it renders as a table."""
    card = model_card(VERSION, trained, evaluate_trained(trained, history, 0))
    blocks = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]

    assert len(blocks) == 5
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1


def test_goes_into_the_artifact(trained: Trained, history: EventBatch, tmp_path: Path) -> None:
    """Card and metrics are saved with the model, and the metrics come back with it."""
    evaluation = evaluate_trained(trained, history, 0)
    metadata = {**trained.metadata, "metrics": evaluation.to_json()}
    measured = Trained(trained.network, trained.layout, trained.scaling, trained.size, trained.unseen, metadata)
    folder = artifact.save(tmp_path, VERSION, measured, model_card(VERSION, measured, evaluation))

    assert artifact.load(folder, Contract(CONTRACT.schema)).metadata["metrics"] == evaluation.to_json()
    assert (folder / artifact.CARD).read_text() == model_card(VERSION, measured, evaluation)
