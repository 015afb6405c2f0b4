import numpy as np
import pytest
import torch

from models.eager import Eager
from models.folded import Folded
from models.graph_inputs import graph_arrays
from models.layout import Layout, Scaling
from models.samples import History
from models.scaling import fit_scaling
from models.windows import WindowBatch
from tests.models.conftest import events, random_network
from tests.models.test_forward import CASES

WINDOWS = 12


def scene(name: str, *, full: bool) -> tuple[Layout, Scaling, torch.nn.Module, WindowBatch]:
    """A network whose every weight matters, and some windows, all full or all short."""
    contract, size = CASES[name]
    history = History(contract, events(contract, servers=4, steps=320 if name == "shipped" else 90))
    layout = Layout(contract)
    scaling = fit_scaling(layout, history.step, history.reals)
    network = random_network(layout, scaling, size)
    wanted = (history.samples.available >= contract.settings.encoder_steps) == full
    samples = history.samples.take(wanted)
    chosen = np.linspace(0, len(samples) - 1, WINDOWS).astype(int)
    return layout, scaling, network, history.windows(samples.take(chosen))


@pytest.mark.parametrize("full", [True, False], ids=["full", "short"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name: str, full: bool) -> None:
    """For any contract and size, the folded network gives the reference's numbers, from raw windows to raw units."""
    layout, scaling, network, windows = scene(name, full=full)
    settings = layout.contract.settings
    shape = (len(layout.targets), len(settings.quantiles), settings.horizon_steps)
    offsets = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)

    expected = Eager(layout, scaling, network).run(windows, offsets)
    arrays = [torch.from_numpy(array) for array in graph_arrays(layout, windows, offsets, full=full)]
    with torch.inference_mode():
        got = Folded(layout, scaling, network, full=full)(*arrays).numpy()

    assert (np.abs(got - expected) / (1 + np.abs(expected))).max() <= 1e-4
    assert np.ptp(expected, axis=0).max() > 0.1, "windows differ in their forecasts"
