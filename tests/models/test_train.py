from pathlib import Path

import pytest
import torch

from models import artifact
from models.artifact import Trained
from models.network_size import NetworkSize
from models.samples import History
from models.split import split
from models.train import Fitted, Trainer, train
from models.training import Training
from schemas.contract import Contract
from schemas.errors import DataError, InputError, MismatchError
from tests import contracts
from tests.models.conftest import START_MS
from tests.models.fleet import CONTRACT, OPTIONS, STATES, fleet
from tests.models.small import VERSION


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return train(CONTRACT, fleet(), OPTIONS)


@pytest.fixture(scope="module")
def trained(fitted: Fitted) -> Trained:
    return fitted.judged


def same(a: Trained, b: Trained) -> bool:
    pairs = zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_loss_falls(trained: Trained) -> None:
    """Training lowers the loss, on the windows it trains on and on those it validates on."""
    losses = trained.metadata["losses"]

    assert len(losses) == 3
    assert losses[-1]["train"] < 0.9 * losses[0]["train"]
    assert min(entry["validation"] for entry in losses[1:]) < losses[0]["validation"]


def test_a_seed_gives_its_weights(trained: Trained) -> None:
    """The same data and seed give the same weights bit for bit; another seed gives others."""
    again = train(CONTRACT, fleet(), OPTIONS).judged
    other = train(CONTRACT, fleet(), OPTIONS.model_copy(update={"seed": 1})).judged

    assert same(trained, again)
    assert not same(trained, other)
    assert trained.metadata["data_sha256"] == again.metadata["data_sha256"]
    assert fleet(1).sha256() != again.metadata["data_sha256"]


def test_symbols_that_training_never_saw(trained: Trained) -> None:
    """A symbol that no training window held gets the mean of the trained rows, and is listed."""
    assert trained.unseen == {"state": ["late", "never"], "zone": ["m"]}

    for name, missing in trained.unseen.items():
        weight = trained.network.input_embeddings.embeddings[name].weight
        rows = trained.layout.vocabulary[name]
        seen = [i for i, symbol in enumerate(rows) if symbol not in missing]
        for symbol in missing:
            torch.testing.assert_close(weight[rows.index(symbol)], weight[seen].mean(0), rtol=0, atol=1e-7)
        assert len({tuple(weight[i].tolist()) for i in seen}) == len(seen), "seen symbols keep rows of their own"


def test_constant_inputs_are_recorded(trained: Trained) -> None:
    """What never moved in training is named, and fed as 0: here the month, the hour and the covariate."""
    assert set(trained.scaling.constant) == {"hour", "month", "requests"}


def test_scalers_see_only_the_past(trained: Trained) -> None:
    """The scalers do not change when everything after the cut does."""
    batch = fleet()
    history = History(CONTRACT, batch)
    cut = split(history, OPTIONS.validation_fraction).first_validation_step
    later = batch.time >= cut * CONTRACT.step_ms
    assert later.any()
    batch.reals[later] *= 1000
    again = train(CONTRACT, batch, OPTIONS.model_copy(update={"epochs": 1})).judged

    assert again.scaling == trained.scaling
    level = batch.reals[~later, 0]
    assert trained.scaling.level["load"] == pytest.approx(level.mean())
    assert trained.scaling.spread["load"] == pytest.approx(level.std())


@pytest.mark.parametrize("steps", [0, 1, 5, 10])
def test_too_little_data(steps: int) -> None:
    """Too little data is a DataError that says how much there is and how much is needed."""
    batch = fleet()
    short = batch.take(batch.time < START_MS + (steps + 1) * CONTRACT.step_ms)
    with pytest.raises(DataError, match=r"needs at least .* = 11|no step of the data ever closes|no events") as caught:
        train(CONTRACT, short if steps else batch.take([]), OPTIONS)

    assert caught.value.exit_code == 2


def test_no_unbroken_window() -> None:
    """Data that is full of gaps longer than max_gap_steps holds no window, and that is said."""
    batch = fleet()
    with pytest.raises(DataError, match=r"unbroken window of 3 steps .* max_gap_steps = 2"):
        train(CONTRACT, batch.take((batch.time - START_MS) // CONTRACT.step_ms % 8 < 2), OPTIONS)


def test_diverging_is_an_error() -> None:
    """Training whose loss is never finite makes no model: it is a DataError, not an artifact of NaN."""
    with pytest.raises(DataError, match="diverged"):
        train(CONTRACT, fleet(), OPTIONS.model_copy(update={"learning_rate": 1e30, "epochs": 2, "batch_size": 8}))


def test_the_final_weights_saw_all_rows(fitted: Fitted) -> None:
    """The refit goes over all windows for as many epochs as validation chose, with scalers of all rows."""
    chosen = fitted.judged.metadata["epochs"]

    assert fitted.final.metadata["epochs"] == chosen
    assert fitted.final.metadata["losses"] == fitted.judged.metadata["losses"]
    assert fitted.final.metadata["refit_windows"] > fitted.final.metadata["train_windows"]
    assert fitted.final.scaling.level["load"] == pytest.approx(fleet().reals[:, 0].mean(), rel=1e-3)
    assert not same(fitted.final, fitted.judged)
    assert "late" not in fitted.final.unseen.get("state", []), "the last tenth was seen"


def test_held_out_servers_are_never_looked_at() -> None:
    """What held-out servers did changes neither weights nor scalers, and they are named."""
    batch = fleet()
    options = OPTIONS.model_copy(update={"epochs": 1, "holdout_servers": 1})
    first = train(CONTRACT, batch, options).final
    (name,) = first.metadata["held_out_servers"]
    batch.reals[batch.keys == name] *= 3
    second = train(CONTRACT, batch, options).final

    assert same(first, second)
    assert first.scaling == second.scaling
    assert sorted([*first.metadata["trained_servers"], name]) == ["s0", "s1", "s2", "s3"]


def test_all_servers_held_out() -> None:
    """Holding out every server leaves nothing to train on, and that is said."""
    with pytest.raises(DataError, match="holdout_servers: 4 of 4"):
        train(CONTRACT, fleet(), OPTIONS.model_copy(update={"holdout_servers": 4}))


class CutOff(BaseException):
    """What a kill looks like from within."""


@pytest.mark.parametrize("fit", ["choose", "refit"])
def test_resuming_gives_the_undisturbed_weights(
    fit: str, fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that died in either fit and was resumed ends with the weights of one that did not, bit for bit."""
    epochs = []
    real = Training.on_train_epoch_start

    def dies(self: Training) -> None:
        epochs.append(self.current_epoch)
        if epochs.count(1) == (1 if fit == "choose" else 2):
            raise CutOff
        real(self)

    monkeypatch.setattr(Training, "on_train_epoch_start", dies)
    with pytest.raises(CutOff):
        Trainer(CONTRACT, fleet(), OPTIONS).train(tmp_path)
    assert list(tmp_path.iterdir()), "the state after the first epoch is kept"
    monkeypatch.setattr(Training, "on_train_epoch_start", real)
    resumed = Trainer(CONTRACT, fleet(), OPTIONS).train(tmp_path, resume=True)

    assert same(resumed.final, fitted.final)
    assert resumed.final.metadata["losses"] == fitted.final.metadata["losses"]
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_only_the_same_training_is_resumed(tmp_path: Path) -> None:
    """Other data or options have nothing to resume, and that is said."""
    with pytest.raises(InputError, match="nothing to resume"):
        Trainer(CONTRACT, fleet(), OPTIONS).train(tmp_path, resume=True)


def test_a_model_to_begin_with(fitted: Fitted, tmp_path: Path) -> None:
    """Training that begins with a model's weights starts where that ended, says so, and keeps rows of its symbols."""
    start = artifact.load(artifact.save(tmp_path, VERSION, fitted.final, "card"))
    batch = fleet()
    batch.enums[:, 0] = STATES.index("up")
    options = OPTIONS.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
    further = Trainer(CONTRACT, batch, options, start).train().final

    for old, new in zip(start.network.parameters(), further.network.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5)
    assert further.metadata["started_from"] == VERSION
    assert further.unseen.get("state") == fitted.final.unseen.get("state"), "what the first saw is not forgotten"


def test_a_model_of_another_size_to_begin_with(fitted: Fitted, tmp_path: Path) -> None:
    """A model of another size or contract is refused before anything is trained."""
    start = artifact.load(artifact.save(tmp_path, VERSION, fitted.final, "card"))
    wide = OPTIONS.model_copy(update={"size": NetworkSize(hidden_size=16)})
    with pytest.raises(MismatchError, match="sizes"):
        Trainer(CONTRACT, fleet(), wide, start)
    with pytest.raises(MismatchError, match="horizon_steps"):
        Trainer(Contract(contracts.schema(horizon_steps=9)), fleet(), OPTIONS, start)
