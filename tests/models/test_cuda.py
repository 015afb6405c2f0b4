import numpy as np
import pytest
import torch

from models.cuda import DEVICE_ROWS, Cuda
from models.eager import Eager
from models.runtime import Runtime
from schemas.errors import InputError
from tests.models.test_folded import scene


def device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return name


@pytest.mark.parametrize("full", [True, False], ids=["full", "short"])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_equals_the_reference(where: str, full: bool) -> None:
    """The network on a device, in a graph captured once where it is a GPU, gives the reference's numbers."""
    layout, scaling, network, windows = scene("shipped", full=full)
    engine = Cuda(layout, scaling, network, device(where))

    expected = Runtime(layout.contract, Eager(layout, scaling, network)).forecast(windows).values
    runtime = Runtime(layout.contract, engine)
    got = [runtime.forecast(windows.take(order)).values for order in (slice(None), slice(None, None, -1))]

    assert (np.abs(got[0] - expected) / (1 + np.abs(expected))).max() <= 1e-4
    assert np.array_equal(got[0], got[1][::-1]), "the second run replays the first one's graph with other windows"
    assert len(windows) < DEVICE_ROWS, "blocks are filled up"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_told() -> None:
    """It is no reason to run on something else."""
    layout, scaling, network, _ = scene("shipped", full=True)

    with pytest.raises(InputError, match="no CUDA device"):
        Cuda(layout, scaling, network)
