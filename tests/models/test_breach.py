import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.breach import breach_probability

WIDTH = {"width": 32, "allow_nan": False, "allow_infinity": False}


@given(
    values=arrays(np.float32, (3, 4, 5), elements=st.floats(-100, 100, **WIDTH) | st.sampled_from([0.0, 1.0])),
    threshold=st.floats(-110, 110) | st.sampled_from([0.0, 1.0]),
    above=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_it_is_read_off_between_the_quantiles(values: np.ndarray, threshold: float, above: bool) -> None:
    """Linear between two quantiles, 0 or 1 beyond the outermost, and 1 less that on the other side."""
    levels = np.array([0.1, 0.3, 0.6, 0.9])
    values = np.sort(values, axis=1)

    got = breach_probability(values, levels, threshold, above=above)

    assert got.shape == (3, 5)
    for row, step in np.ndindex(3, 5):
        quantiles = values[row, :, step].astype(float)
        under = read_off(quantiles, levels, threshold)
        np.testing.assert_allclose(got[row, step], 1 - under if above else under, atol=1e-12)


def read_off(quantiles: np.ndarray, levels: np.ndarray, threshold: float) -> float:
    """The probability of a value at or under the threshold, a quantile at a time."""
    if threshold < quantiles[0]:
        return 0.0
    if threshold >= quantiles[-1]:
        return 1.0
    for low, high, level, following in zip(quantiles, quantiles[1:], levels, levels[1:], strict=False):
        if low <= threshold < high:
            share = min((threshold - low) / max(high - low, 1e-12), 1.0)
            return float(level + share * (following - level))
    raise AssertionError("the threshold lies between two quantiles")


def test_a_single_quantile_splits_the_world() -> None:
    """With one quantile all that can be said is on which side of it the threshold lies."""
    values = np.array([[[1.0, 3.0]]], np.float32)

    assert breach_probability(values, np.array([0.5]), 2.0, above=True).tolist() == [[0.0, 1.0]]
