import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_forecasting.data import EncoderNormalizer

from models.normalizer import WindowNormalizer, center_and_scale, denormalise, normalise

WINDOW = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30).map(lambda v: np.array(v, np.float32))


def test_it_is_the_librarys() -> None:
    """It is a subclass of EncoderNormalizer, so that the library's predict() can use it."""
    assert isinstance(WindowNormalizer(0.1), EncoderNormalizer)


def test_centre_and_scale_by_hand() -> None:
    """The centre is the last value, the scale the mean absolute difference plus the floor."""
    normalizer = WindowNormalizer(0.5).fit(np.array([1.0, 4.0, 2.0, 2.0]))

    assert float(normalizer.center_) == 2.0
    assert float(normalizer.scale_) == pytest.approx(5 / 3 + 0.5)


@pytest.mark.parametrize("values", [[7.0] * 5, [7.0]])
def test_a_window_without_movement_has_the_floor(values: list[float]) -> None:
    """A constant window, and a window of one step, have the floor as their scale: nothing is divided by zero."""
    normalizer = WindowNormalizer(0.25).fit(np.array(values))

    assert (float(normalizer.center_), float(normalizer.scale_)) == (7.0, 0.25)
    assert np.asarray(normalizer.transform(np.array(values))).tolist() == [0.0] * len(values)
    assert normalizer.min_length == 1


@given(WINDOW, st.floats(0.01, 10))
def test_asinh_on_the_way_in_sinh_on_the_way_out(values: np.ndarray, floor: float) -> None:
    """Input is asinh((y - center) / scale), and the way back undoes it."""
    normalizer = WindowNormalizer(floor).fit(values)
    center, scale = float(normalizer.center_), float(normalizer.scale_)
    assert scale >= np.float32(floor)

    z = np.asarray(normalizer.transform(values))
    np.testing.assert_allclose(z, np.arcsinh((values.astype(float) - center) / scale), rtol=1e-4, atol=1e-5)

    output = torch.tensor([[-2.0, 0.0, 5.0]])
    back = normalizer({"prediction": output, "target_scale": torch.tensor([[center, scale]])})[0]
    np.testing.assert_allclose(back.numpy(), np.sinh(output[0].numpy()) * scale + center, rtol=1e-5, atol=1e-5 * scale)
    torch.testing.assert_close(back, denormalise(output[0], torch.tensor(center), torch.tensor(scale)))
    again = normalise(back.double(), torch.tensor(center).double(), torch.tensor(scale).double())
    assert abs(center) > 1e3 * scale or torch.allclose(again.float(), output[0], atol=1e-2)


@pytest.mark.parametrize("kind", [np.array, pd.Series, lambda v: torch.tensor(np.array(v))])
def test_any_kind_of_array(kind: type) -> None:
    """Series, arrays and tensors give the same centre, scale and input."""
    values = [3.0, 1.0, 2.0]
    normalizer = WindowNormalizer(0.1).fit(kind(values))

    assert (float(normalizer.center_), float(normalizer.scale_)) == pytest.approx((2.0, 1.6))
    z, norm = normalizer.transform(kind(values), return_norm=True)
    np.testing.assert_allclose(np.asarray(z), np.arcsinh((np.array(values) - 2) / 1.6), rtol=1e-6)
    np.testing.assert_allclose(np.asarray(norm).ravel(), [2.0, 1.6], rtol=1e-6)


@given(st.lists(WINDOW, min_size=1, max_size=6), st.floats(0.01, 10))
def test_a_batch_is_its_windows(windows: list[np.ndarray], floor: float) -> None:
    """Right-padded windows in one tensor have the centre and scale of each alone, whatever lies in the padding."""
    lengths = torch.tensor([len(w) for w in windows])
    padded = torch.full((len(windows), int(lengths.max()) + 2), 1e9)
    for i, window in enumerate(windows):
        padded[i, : len(window)] = torch.from_numpy(window)

    center, scale = center_and_scale(padded, lengths, floor)

    for i, window in enumerate(windows):
        alone = WindowNormalizer(floor).fit(window)
        assert float(center[i]) == float(alone.center_)
        assert float(scale[i]) == pytest.approx(float(alone.scale_), rel=1e-5)


def test_floors_by_target() -> None:
    """In the batch form each target has a floor of its own."""
    values = torch.ones(2, 3, 4)  # [B, targets, time]
    _, scale = center_and_scale(values, torch.full((2, 3), 4), torch.tensor([0.1, 1.0, 10.0]))

    np.testing.assert_allclose(scale.numpy(), [[0.1, 1.0, 10.0]] * 2)
