import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import artifact
from models.artifact import Trained
from models.calibration import calibrate
from models.eager import Eager
from models.layout import Layout
from models.network import build_network
from models.network_size import NetworkSize
from models.runtime import Runtime
from models.samples import History
from models.sampling import WindowStream, chunks
from models.scaling import fit_scaling
from models.split import split
from models.train import Fitted, Trainer, train
from models.training import Training, TrainingOptions
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.errors import DataError, InputError, MismatchError
from tests import contracts
from tests.models.conftest import START_MS, events

SMALL = NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4)
OPTIONS = TrainingOptions(epochs=3, size=SMALL, epoch_windows=200, learning_rate=0.01, averaging=0.5)
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
def fitted() -> Fitted:
    return train(CONTRACT, fleet(), OPTIONS)


@pytest.fixture(scope="module")
def trained(fitted: Fitted) -> Trained:
    return fitted.judged


def a_training(steps: int = 9) -> Training:
    """Of hand-made scalers and the fleet's windows; nothing of it has run."""
    history = History(CONTRACT, fleet())
    scaling = fit_scaling(Layout(CONTRACT), np.arange(steps), np.ones((steps, 2)))
    return Training(Layout(CONTRACT), scaling, OPTIONS, stream_of(history, OPTIONS))


def stream_of(history: History, options: TrainingOptions) -> WindowStream:
    return WindowStream(
        history, split(history, 0.2).train, epoch_windows=options.epoch_windows, batch_size=options.batch_size,
        seed=options.seed,
    )  # fmt: skip


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


@pytest.mark.parametrize("symbol", STATES[:3])
def test_a_symbol_trains_its_own_row(symbol: str) -> None:
    """The gradient of data that holds one symbol reaches that symbol's row alone, though enums are not in order."""
    batch = fleet()
    batch.enums[:, 0] = STATES.index(symbol)
    history = History(CONTRACT, batch)
    layout = Layout(CONTRACT)
    module = Training(layout, fit_scaling(layout, history.step, history.reals), OPTIONS, stream_of(history, OPTIONS))
    full = history.samples.take(history.samples.available >= CONTRACT.settings.encoder_steps).take(np.arange(8))
    module.objective.loss(module.network, chunks(history, full)).backward()

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


def test_a_nan_epoch_is_not_the_best() -> None:
    """An epoch without a finite loss is never kept, and a later finite one is."""
    module = a_training()
    for loss, best in ((float("nan"), 0), (2.0, 2), (3.0, 2), (float("nan"), 2), (1.0, 5)):
        module.end_epoch(train=1.0, validation=loss)
        assert module.best_epoch == best
        assert bool(module.best) == bool(best)


def test_training_stops_when_it_no_longer_gets_better() -> None:
    """After ``patience`` epochs without a better validation loss, or after all epochs, a fit is finished."""
    module = a_training()
    module.end_epoch(train=1.0, validation=1.0)
    for _ in range(OPTIONS.patience - 1):
        module.end_epoch(train=0.5, validation=2.0)
        finished = module.finished
        if len(module.losses) < OPTIONS.epochs:
            assert not finished
    module.end_epoch(train=0.4, validation=2.0)

    assert module.finished


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
    stream = stream_of(history, OPTIONS)
    epochs = []
    for stream.epoch in range(2):
        batches = list(stream)
        assert len(batches) == len(stream)
        epochs.append([chunk.windows for chunk in itertools.chain(*batches)])

    orders = [np.concatenate([w.last_step for w in epoch]) for epoch in epochs]
    assert not np.array_equal(*orders)
    lengths = np.concatenate([w.lengths for w in itertools.chain(*epochs)])
    settings = CONTRACT.settings
    assert (lengths.min(), lengths.max()) == (settings.min_encoder_steps, settings.encoder_steps)
    drawn = [(w.last_step[i], w.reals[i, w.lengths[i] - 1].tobytes()) for w in epochs[0] for i in range(len(w))]
    assert len(set(drawn)) == len(drawn) == min(200, len(samples))


def test_near_steps_weigh_more() -> None:
    """An error at the first step costs more than the same at the last: the weight falls as h^-0.5, of mean 1."""
    weight = a_training().objective.step_weight.numpy()

    np.testing.assert_allclose(weight / weight[0], np.arange(1, 5) ** -0.5, rtol=1e-6)
    assert weight.mean() == pytest.approx(1)


def test_missing_truth_costs_nothing() -> None:
    """Steps that were never observed add nothing to the loss, and no NaN reaches the gradients."""
    history = History(CONTRACT, fleet())
    layout = Layout(CONTRACT)
    module = Training(layout, fit_scaling(layout, history.step, history.reals), OPTIONS, stream_of(history, OPTIONS))
    network = module.network.eval()
    whole, alone = (chunks(history, split(history, 0.2).train.take(np.arange(n))) for n in (8, 3))
    whole[0].future[3:] = float("nan")
    loss = module.objective.loss(network, whole)
    loss.backward()

    assert float(loss.detach()) == pytest.approx(float(module.objective.loss(network, alone).detach()), rel=1e-5)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_cores_share_out_what_one_would_do() -> None:
    """Loss and gradients that all cores work out together are those of one backward pass over the whole batch."""
    history = History(CONTRACT, fleet())
    layout = Layout(CONTRACT)
    module = Training(layout, fit_scaling(layout, history.step, history.reals), OPTIONS, stream_of(history, OPTIONS))
    network, batch = module.network.eval(), chunks(history, split(history, 0.2).train.take(np.arange(50)))
    assert len(batch) > 1
    loss = module.objective.loss(network, batch)
    loss.backward()
    shared = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    total = torch.stack([module.objective._sum(network, chunk, torch.device("cpu")) for chunk in batch]).sum()
    (total / sum(int(torch.isfinite(chunk.future).sum()) for chunk in batch)).backward()

    assert float(loss.detach()) == pytest.approx(module.objective.judge(network, batch), rel=1e-5)
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(shared[name], parameter.grad, rtol=1e-3, atol=1e-6)


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


def test_a_tenth_is_held_out_of_many() -> None:
    """By default a tenth of 20 servers or more is held out, and none of fewer."""
    for servers, held_out in ((19, 0), (20, 2)):
        history = History(CONTRACT, events(CONTRACT, servers=servers, steps=40))
        assert len(split(history, 0.2).held_out) == held_out


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


def test_offsets_make_quantiles_hold_their_level() -> None:
    """With conformal offsets each quantile holds its level on the windows that the offsets rest on."""
    history = History(CONTRACT, fleet())
    layout = Layout(CONTRACT)
    scaling = fit_scaling(layout, history.step, history.reals)
    torch.manual_seed(0)
    network = build_network(layout, scaling, SMALL).eval()  # knows nothing
    samples = history.samples.take(history.samples.step < history.step.max() - CONTRACT.settings.horizon_steps)
    calibration = calibrate(network, layout, scaling, chunks(history, samples))
    assert calibration is not None
    offsets = calibration.offsets
    assert offsets.shape == (1, len(CONTRACT.settings.quantiles), CONTRACT.settings.horizon_steps)

    runtime = Runtime(layout.contract, Eager(layout, scaling, network), offsets)
    quantiles = runtime.forecast(history.windows(samples)).values  # [B, 1, Q, H]
    truth = history.future(samples).transpose(0, 2, 1)[:, :, None]
    below = ((truth <= quantiles) & np.isfinite(truth)).sum((0, 1, 3)) / np.isfinite(truth).sum()
    np.testing.assert_allclose(below, CONTRACT.settings.quantiles, atol=0.01)
    told = calibration.metadata["coverage80"]["load"]
    assert told["after"] == pytest.approx(0.8, abs=0.01)
    assert abs(told["before"] - 0.8) > 0.05, "the network alone was not calibrated"


def test_too_few_windows_calibrate_nothing() -> None:
    """Of a handful of windows no quantile of 0.02 can be told: then there are no offsets."""
    history = History(CONTRACT, fleet())
    layout = Layout(CONTRACT)
    scaling = fit_scaling(layout, history.step, history.reals)
    network = build_network(layout, scaling, SMALL).eval()

    assert calibrate(network, layout, scaling, chunks(history, history.samples.take(np.arange(20)))) is None


def test_a_model_to_begin_with(fitted: Fitted, tmp_path: Path) -> None:
    """Training that begins with a model's weights starts where that ended, says so, and keeps rows of its symbols."""
    start = artifact.load(artifact.save(tmp_path, "tft_model_20260101_000000", fitted.final, "card"))
    batch = fleet()
    batch.enums[:, 0] = STATES.index("up")
    options = OPTIONS.model_copy(update={"epochs": 1, "learning_rate": 1e-9})
    further = Trainer(CONTRACT, batch, options, start).train().final

    for old, new in zip(start.network.parameters(), further.network.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5)
    assert further.metadata["started_from"] == "tft_model_20260101_000000"
    assert further.unseen.get("state") == fitted.final.unseen.get("state"), "what the first saw is not forgotten"


def test_a_model_of_another_size_to_begin_with(fitted: Fitted, tmp_path: Path) -> None:
    """A model of another size or contract is refused before anything is trained."""
    start = artifact.load(artifact.save(tmp_path, "tft_model_20260101_000000", fitted.final, "card"))
    wide = OPTIONS.model_copy(update={"size": NetworkSize(hidden_size=16)})
    with pytest.raises(MismatchError, match="sizes"):
        Trainer(CONTRACT, fleet(), wide, start)
    with pytest.raises(MismatchError, match="horizon_steps"):
        Trainer(Contract(contracts.schema(horizon_steps=9)), fleet(), OPTIONS, start)
