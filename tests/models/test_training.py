"""The parts of training, each alone: scalers, split, drawn windows, loss, the end of a fit, calibration."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from models.calibration import calibrate
from models.eager import Eager
from models.layout import Layout
from models.network import build_network
from models.runtime import Runtime
from models.samples import History
from models.sampling import WindowStream, chunks
from models.scaling import fit_scaling
from models.split import split
from models.training import Training, TrainingOptions
from tests.models.conftest import events
from tests.models.fleet import CONTRACT, OPTIONS, STATES, fleet
from tests.models.small import SMALL


def stream_of(history: History) -> WindowStream:
    return WindowStream(
        history, split(history, 0.2).train, epoch_windows=OPTIONS.epoch_windows, batch_size=OPTIONS.batch_size,
        seed=OPTIONS.seed,
    )  # fmt: skip


def training_of(history: History) -> Training:
    """Of the history's scalers and windows; nothing of it has run."""
    layout = Layout(CONTRACT)
    return Training(layout, fit_scaling(layout, history.step, history.reals), OPTIONS, stream_of(history))


@pytest.mark.parametrize("symbol", STATES[:3])
def test_a_symbol_trains_its_own_row(symbol: str) -> None:
    """The gradient of data that holds one symbol reaches that symbol's row alone, though enums are not in order."""
    batch = fleet()
    batch.enums[:, 0] = STATES.index(symbol)
    history = History(CONTRACT, batch)
    module = training_of(history)
    full = history.samples.take(history.samples.available >= CONTRACT.settings.encoder_steps).take(np.arange(8))
    module.objective.loss(module.network, chunks(history, full)).backward()

    gradient = module.network.input_embeddings.embeddings["state"].weight.grad
    assert torch.count_nonzero(gradient.abs().sum(1)) == 1
    assert Layout(CONTRACT).vocabulary["state"][int(gradient.abs().sum(1).argmax())] == symbol


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


def test_a_nan_epoch_is_not_the_best() -> None:
    """An epoch without a finite loss is never kept, and a later finite one is."""
    module = training_of(History(CONTRACT, fleet()))
    for loss, best in ((float("nan"), 0), (2.0, 2), (3.0, 2), (float("nan"), 2), (1.0, 5)):
        module.end_epoch(train=1.0, validation=loss)
        assert module.best_epoch == best
        assert bool(module.best) == bool(best)


def test_training_stops_when_it_no_longer_gets_better() -> None:
    """After ``patience`` epochs without a better validation loss, or after all epochs, a fit is finished."""
    module = training_of(History(CONTRACT, fleet()))
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
    stream = stream_of(history)
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
    weight = training_of(History(CONTRACT, fleet())).objective.step_weight.numpy()

    np.testing.assert_allclose(weight / weight[0], np.arange(1, 5) ** -0.5, rtol=1e-6)
    assert weight.mean() == pytest.approx(1)


def test_missing_truth_costs_nothing() -> None:
    """Steps that were never observed add nothing to the loss, and no NaN reaches the gradients."""
    history = History(CONTRACT, fleet())
    module = training_of(history)
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
    module = training_of(history)
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


def test_a_tenth_is_held_out_of_many() -> None:
    """By default a tenth of 20 servers or more is held out, and none of fewer."""
    for servers, held_out in ((19, 0), (20, 2)):
        history = History(CONTRACT, events(CONTRACT, servers=servers, steps=40))
        assert len(split(history, 0.2).held_out) == held_out


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
