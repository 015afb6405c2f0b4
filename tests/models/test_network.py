import pytest
import torch

from models.forward import forward
from models.layout import Layout, Scaling
from models.network import build_network
from models.network_input import network_input
from models.network_size import NetworkSize
from models.samples import History
from schemas.contract import Contract
from tests import contracts
from tests.contracts import enum, field
from tests.models.conftest import events

SIZE = NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4)
CONTRACTS = {
    "one target": Contract(contracts.schema()),
    "every role": contracts.rich(known=["hour", "season_lag"]),
    "one quantile": Contract(contracts.schema(quantiles=[0.5])),
    "torch's own names": Contract(
        contracts.schema(
            field("type", "double", "target"),
            field("values", "double", "target"),
            field("keys", "long", "covariate"),
            field("items", enum("I", "b", "a"), "category"),
            field("pop", enum("P", "b", "a"), "static"),
        )
    ),
}


def scaling_of(layout: Layout) -> Scaling:
    ones = dict.fromkeys(layout.targets, 1.0)
    return Scaling(ones, ones, ones, dict.fromkeys(layout.covariates, (0.0, 1.0)))


@pytest.mark.parametrize("name", CONTRACTS)
def test_built_from_the_contract_alone(name: str) -> None:
    """For any contract the network is built without a row of data, and gives [B, horizon, targets, quantiles]."""
    contract = CONTRACTS[name]
    layout = Layout(contract)
    history = History(contract, events(contract, servers=2, steps=20))
    network = build_network(layout, scaling_of(layout), SIZE).eval()
    inputs = network_input(layout, scaling_of(layout), history.windows(history.samples))
    with torch.inference_mode():
        output = forward(network, inputs)

    settings = contract.settings
    assert output.shape[1:] == (settings.horizon_steps, len(contract.targets), len(settings.quantiles))
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", ["every role", "torch's own names"])
def test_inputs_of_the_network_are_the_layouts(name: str) -> None:
    """The library's own lists of variables are the layout's, in its order."""
    layout = Layout(CONTRACTS[name])
    hparams = build_network(layout, scaling_of(layout), SIZE).hparams

    assert hparams.x_reals == layout.reals
    assert hparams.x_categoricals == layout.statics + layout.categories
    assert hparams.time_varying_reals_decoder == layout.known
    assert {k: v[0] for k, v in hparams.embedding_sizes.items()} == {k: len(v) for k, v in layout.vocabulary.items()}


@pytest.mark.parametrize(
    "sizes",
    [{"hidden_size": 0}, {"attention_head_size": 0}, {"hidden_size": 4}, {"lstm_layers": 0}, {"dropout": 1.0}],
)
def test_sizes_that_make_no_network(sizes: dict[str, float]) -> None:
    """Sizes of which no network can be made are refused by name."""
    with pytest.raises(ValueError, match=next(iter(sizes))):
        NetworkSize(**sizes)
