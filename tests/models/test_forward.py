import numpy as np
import pytest
import torch
from torch import Tensor

from bench.peers.library import library_input
from models.dropout import drawn_from
from models.forward import forward
from models.layout import Layout
from models.network_input import NetworkInput, network_input
from models.network_size import NetworkSize
from models.samples import History
from models.scaling import fit_scaling
from schemas.contract import Contract
from tests import contracts
from tests.contracts import enum, field
from tests.models.conftest import events, random_network

SIZE = NetworkSize(hidden_size=16, attention_head_size=4, hidden_continuous_size=8, dropout=0.3)
ONE = contracts.schema(step_seconds=60, encoder_steps=12, min_encoder_steps=4, horizon_steps=5)
CALENDAR = ["hour", "day_of_week", "month", "is_weekend", "time_of_day", "season_lag"]
HOURS = {"step_seconds": 3600, "encoder_steps": 24, "min_encoder_steps": 6, "horizon_steps": 8}
MANY = contracts.schema(
    *(field(f"t{i}", "double", "target") for i in range(20)),
    field("color", enum("Color", "red", "blue"), "category"),
    field("shape", enum("Shape", "round", "square", "flat"), "category"),
    known=[],
)
CASES = {
    "one target, nothing known": (Contract(ONE | {"fleetcast": ONE["fleetcast"] | {"known": []}}), SIZE),
    "every role": (contracts.rich(**HOURS, known=CALENDAR), SIZE),
    "seven-second steps": (contracts.rich(step_seconds=7, known=["time_of_day"]), SIZE),
    "twenty targets, two categories": (Contract(MANY), SIZE),
    "inputs as wide as the network": (contracts.rich(**HOURS), SIZE.model_copy(update={"hidden_continuous_size": 16})),
    "inputs wider than the network": (contracts.rich(**HOURS), SIZE.model_copy(update={"hidden_continuous_size": 24})),
    "one head, two layers": (
        contracts.rich(**HOURS, known=CALENDAR),
        SIZE.model_copy(update={"attention_head_size": 1, "lstm_layers": 2}),
    ),
    "shipped": (Contract.load(), NetworkSize()),
}


def network_and_inputs(name: str, rows: int = 12) -> tuple[torch.nn.Module, NetworkInput, NetworkInput]:
    """A network whose every weight matters, windows of all lengths, and the same with a full one behind them."""
    contract, size = CASES[name]
    history = History(contract, events(contract, servers=4, steps=320 if name == "shipped" else 90))
    layout = Layout(contract)
    scaling = fit_scaling(layout, history.step, history.reals)
    network = random_network(layout, scaling, size)
    chosen = np.sort(np.random.default_rng(0).choice(len(history.samples), rows, replace=False))
    windows = history.windows(history.samples.take(chosen))
    assert np.ptp(windows.lengths) > 0, "full windows and short ones are compared"
    inputs = (network_input(layout, scaling, w) for w in (windows, windows.padded(len(windows) + 1)))
    return network, *inputs


def library(network: torch.nn.Module, inputs: NetworkInput) -> Tensor:
    """In the network's units: with centre 0 and scale 1 the library's way back is sinh alone."""
    prediction = network(library_input(inputs))["prediction"]
    return torch.asinh(torch.stack(prediction, dim=2) if isinstance(prediction, list) else prediction.unsqueeze(2))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_librarys_forward(name: str) -> None:
    """For any contract and size, the restructured forward gives the library's numbers, short windows included."""
    network, inputs, with_full = network_and_inputs(name)
    with torch.inference_mode():
        expected = library(network, with_full)[: len(inputs)]
        got = forward(network, inputs)

    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)
    assert expected.std(dim=0).max() > 0.05, "windows differ in their output"


@pytest.mark.parametrize("name", ["one target, nothing known", "every role", "one head, two layers"])
def test_gradients_are_the_librarys(name: str) -> None:
    """Training through the restructured forward moves every weight as the library's own would."""
    network, inputs, with_full = network_and_inputs(name)
    weight = torch.randn_like(forward(network, inputs))
    parameters = dict(network.named_parameters())

    def gradients(output: Tensor) -> dict[str, Tensor | None]:
        found = torch.autograd.grad((output * weight).sum(), list(parameters.values()), allow_unused=True)
        return dict(zip(parameters, found, strict=True))

    expected = gradients(library(network, with_full)[: len(inputs)])
    got = gradients(forward(network, inputs))

    for parameter, gradient in expected.items():
        ours = got[parameter]
        assert (gradient is None) == (ours is None), parameter
        if gradient is not None and ours is not None:
            torch.testing.assert_close(ours, gradient, rtol=2e-3, atol=2e-5, msg=parameter)


def test_what_is_in_the_padding_does_not_matter() -> None:
    """Values and symbols behind a short window's end change nothing in its forecast."""
    network, inputs, _ = network_and_inputs("every role")
    padding = torch.arange(inputs.cat.shape[1]) >= inputs.lengths[:, None]
    cont, cat = inputs.cont.clone(), inputs.cat.clone()
    first = len(network.hparams.static_reals)  # statics are constant over a window, padding included
    cont[:, : padding.shape[1], first:][padding] = 7.0
    cat[..., 1:][padding] = 1
    changed = NetworkInput(cont, cat, inputs.lengths, inputs.tables, inputs.center, inputs.scale)

    with torch.inference_mode():
        torch.testing.assert_close(forward(network, changed), forward(network, inputs), rtol=0, atol=1e-6)


def test_dropout_follows_its_seed() -> None:
    """In training mode masks are those of the seed, other seeds give other ones, and their mean is the full network."""
    network, inputs, _ = network_and_inputs("every role")
    network.train()

    def run(seed: int) -> Tensor:
        with torch.no_grad(), drawn_from(seed):
            return forward(network, inputs)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    mean = torch.stack([run(seed) for seed in range(300)]).mean(0)
    network.eval()
    with torch.inference_mode():
        full = forward(network, inputs)
    assert (mean - full).abs().mean() < 0.35 * full.std()
