import itertools
from typing import Any

import numpy as np
import pytest
import torch

from models.artifact import Trained
from models.layout import Layout
from models.network import NetworkSize
from models.samples import History
from models.scaling import fit_scaling
from models.train import Training, TrainingOptions, WindowStream, split, train
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.errors import DataError
from tests import contracts
from tests.models.conftest import START_MS, events

SMALL = NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4)
OPTIONS = TrainingOptions(epochs=3, size=SMALL, epoch_windows=200, batch_size=32, learning_rate=0.01)
STATES = ("up", "down", "busy", "never", "late")  # not in alphabetical order
CONTRACT = Contract(
    contracts.schema(
        contracts.field("load", "double", "target"),
        contracts.field("requests", "double", "covariate"),
        contracts.field("state", contracts.enum("State", *STATES), "category"),
        contracts.field("zone", contracts.enum("Zone", "z", "a", "m"), "static"),
        known=["hour", "month"],
    )
)
STEPS = 120


def fleet(seed: int = 0) -> EventBatch:
    """Four servers, one event a step: a load that the state and its own past explain; the last tenth is 'late'."""
    rng = np.random.default_rng(seed)
    batches = []
    for server in range(4):
        batch = EventBatch.allocate(CONTRACT, STEPS)
        state = rng.integers(0, 3, STEPS)
        batch.keys[:] = f"s{server}"
        batch.time[:] = START_MS + np.arange(STEPS) * CONTRACT.step_ms
        batch.reals[:, 0] = 5 * np.sin(np.arange(STEPS) / 3 + server) + 2 * state + rng.normal(0, 0.2, STEPS) + 20
        batch.reals[:, 1] = 0.1  # a constant whose standard deviation is not quite zero in floating point
        batch.enums[:, 0] = np.where(np.arange(STEPS) >= STEPS * 9 // 10, STATES.index("late"), state)
        batch.enums[:, 1] = server % 2
        batches.append(batch)
    merged = EventBatch.concat(batches)
    return merged.take(np.argsort(merged.time, kind="stable"))


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(CONTRACT, fleet(), OPTIONS)


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
    again = train(CONTRACT, fleet(), OPTIONS)
    other = train(CONTRACT, fleet(), OPTIONS.model_copy(update={"seed": 1}))

    assert same(trained, again)
    assert not same(trained, other)
    assert trained.metadata["data_sha256"] == again.metadata["data_sha256"]
    assert train(CONTRACT, fleet(1), OPTIONS).metadata["data_sha256"] != again.metadata["data_sha256"]


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


@pytest.mark.parametrize("symbol", STATES[:3])
def test_a_symbol_trains_its_own_row(symbol: str) -> None:
    """The gradient of data that holds one symbol reaches that symbol's row alone, though enums are not in order."""
    batch = fleet()
    batch.enums[:, 0] = STATES.index(symbol)
    history = History(CONTRACT, batch)
    layout = Layout(CONTRACT)
    module = Training(layout, fit_scaling(layout, history.step, history.reals), OPTIONS, steps=1)
    full = history.samples.take(history.samples.available >= CONTRACT.settings.encoder_steps).take(np.arange(8))
    module.loss((history.windows(full), torch.from_numpy(history.future(full)))).backward()

    gradient = module.network.input_embeddings.embeddings["state"].weight.grad
    assert torch.count_nonzero(gradient.abs().sum(1)) == 1
    assert layout.vocabulary["state"][int(gradient.abs().sum(1).argmax())] == symbol


def test_constant_inputs_are_recorded(trained: Trained) -> None:
    """What never moved in training is named, and fed as 0: here the month, the hour and the covariate."""
    assert set(trained.scaling.constant) == {"hour", "month", "requests"}


@pytest.mark.parametrize("value", [0.1, 33.3, 1e-30, 7.0, 0.0])
def test_a_constant_is_constant_in_spite_of_rounding(value: float) -> None:
    """A constant has no spread, even where floating point gives its standard deviation as 1e-17."""
    layout = Layout(CONTRACT)
    reals = np.full((777, 2), value)
    scaling = fit_scaling(layout, np.arange(777), reals)

    assert "requests" in scaling.constant
    assert scaling.covariates["requests"][1] == 1.0
    assert scaling.spread["load"] == pytest.approx(0.01 * (value or 1.0))
    assert scaling.floor["load"] == pytest.approx(1e-4 * (value or 1.0))


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_no_step_of_a_validation_horizon_is_in_a_training_window(fraction: float, seed: int) -> None:
    """No step that validation judges by lies in the encoder or horizon of any training window, of any server."""
    history = History(CONTRACT, events(CONTRACT, servers=4, steps=60, seed=seed, missing=0.4))
    parts = split(history, fraction)
    s = CONTRACT.settings

    assert len(parts.train)
    assert len(parts.validation)
    judged = {int(step) + h for step in parts.validation.step for h in range(1, s.horizon_steps + 1)}
    trained_on = {int(step) + d for step in parts.train.step for d in range(1 - s.encoder_steps, s.horizon_steps + 1)}
    assert judged.isdisjoint(trained_on)
    assert max(trained_on) < parts.first_validation_step <= min(judged)


def test_scalers_see_only_the_past(trained: Trained) -> None:
    """The scalers do not change when everything after the cut does."""
    batch = fleet()
    history = History(CONTRACT, batch)
    cut = split(history, OPTIONS.validation_fraction).first_validation_step
    later = batch.time >= cut * CONTRACT.step_ms
    assert later.any()
    batch.reals[later] *= 1000
    again = train(CONTRACT, batch, OPTIONS.model_copy(update={"epochs": 1}))

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


def test_a_nan_epoch_is_not_the_best() -> None:
    """An epoch without a finite loss is never kept, and a later finite one is."""
    module = Training(Layout(CONTRACT), fit_scaling(Layout(CONTRACT), np.arange(9), np.ones((9, 2))), OPTIONS, steps=1)
    for loss, kept in ((float("nan"), False), (2.0, True)):
        module._train = [loss]
        module.on_train_epoch_end()
        assert bool(module.best) == kept


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"epoch_windows": 0}, {"validation_fraction": 1.0}, {"seed": -1}]
)
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """Options with which nothing could be trained are refused by name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingOptions(**wrong)


def test_an_epoch_draws_without_replacement() -> None:
    """Each epoch draws other windows, each once, and half of them shortened, never below min_encoder_steps."""
    history = History(CONTRACT, fleet())
    samples = split(history, 0.2).train
    stream = WindowStream(history, samples, OPTIONS)
    epochs = [list(stream) for _ in range(2)]

    assert [len(epoch) for epoch in epochs] == [len(stream)] * 2
    orders = [np.concatenate([w.last_step for w, _ in epoch]) for epoch in epochs]
    assert not np.array_equal(*orders)
    lengths = np.concatenate([w.lengths for w, _ in itertools.chain(*epochs)])
    settings = CONTRACT.settings
    assert (lengths.min(), lengths.max()) == (settings.min_encoder_steps, settings.encoder_steps)
    drawn = [(w.last_step[i], w.reals[i, w.lengths[i] - 1].tobytes()) for w, _ in epochs[0] for i in range(len(w))]
    assert len(set(drawn)) == len(drawn) == min(200, len(samples))


def test_near_steps_weigh_more() -> None:
    """An error at the first step costs more than the same at the last: the weight falls as h^-0.75, of mean 1."""
    module = Training(Layout(CONTRACT), fit_scaling(Layout(CONTRACT), np.arange(9), np.ones((9, 2))), OPTIONS, steps=1)
    weight = module.step_weight.numpy()

    np.testing.assert_allclose(weight / weight[0], np.arange(1, 5) ** -0.75, rtol=1e-6)
    assert weight.mean() == pytest.approx(1)


def test_missing_truth_costs_nothing() -> None:
    """Steps that were never observed add nothing to the loss, and no NaN reaches the gradients."""
    history = History(CONTRACT, fleet())
    layout = Layout(CONTRACT)
    module = Training(layout, fit_scaling(layout, history.step, history.reals), OPTIONS, steps=1).eval()
    samples = split(history, 0.2).train.take(np.arange(8))
    windows, future = history.windows(samples), torch.from_numpy(history.future(samples))
    future[3:] = float("nan")
    whole = module.loss((windows, future))
    whole.backward()

    alone = module.loss((windows.take(slice(0, 3)), future[:3]))
    assert float(whole.detach()) == pytest.approx(float(alone.detach()), rel=1e-5)
    assert all(torch.isfinite(p.grad).all() for p in module.network.parameters() if p.grad is not None)
