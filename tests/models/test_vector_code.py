"""Functions written as vector code do what numpy does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.breach import breach_probability
from models.kernel import Kernel, aligned
from models.stages_code import RULE, SPARE, stages_kernel
from models.vector_code import Array, Code, Floats

FUNCTIONS = {
    "exp2": np.exp2, "exp": np.exp, "log": np.log, "asinh": np.arcsinh, "root": np.sqrt,
    "inverse": lambda x: 1 / x, "inverse_root": lambda x: 1 / np.sqrt(x), "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}  # fmt: skip
POSITIVE = {"log", "root", "inverse", "inverse_root"}


def kernel(name: str) -> Kernel:
    """``y`` of ``x``, whose length is a multiple of 16."""
    code = Code(name, {"x": (Array, ()), "y": (Array, ())})
    x, y = code.array("x"), code.array("y")
    function = getattr(code, name)
    code.each(0, code.rows, lambda at: y.write(at, function(x.read(at))), code.lanes)
    return code.compile()


def of(kernel: Kernel, values: np.ndarray) -> np.ndarray:
    x = np.resize(values.astype(np.float32), -(-len(values) // 16) * 16)
    y = np.empty_like(x)
    kernel(x, y, rows=len(x))
    return y[: len(values)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_numpys(name: str) -> None:
    """Over all sizes that occur, to some units of the last place or 2e-7; and no number stays no number."""
    x = np.concatenate([np.linspace(-60, 60, 20_001), np.logspace(-20, 12, 2001), -np.logspace(-20, 12, 2001)])
    x = x.astype(np.float32)
    x = x[x > 0] if name in POSITIVE else x[np.abs(x) <= 60] if name.startswith("exp") else x
    with np.errstate(over="ignore"):
        expected = FUNCTIONS[name](x.astype(np.float64))

    got = of(kernel(name), x)

    relative = 6e-6 if name == "exp" else 5e-7  # the exponent's rounding: 60 x 2^-24
    np.testing.assert_allclose(got, expected, rtol=relative, atol=2e-7)
    assert np.isnan(of(kernel(name), np.array([np.nan]))).all()


def test_exponents_beyond_a_float_end_at_its_smallest() -> None:
    """A weight that is as good as nothing is small and not subnormal, which would be slow."""
    np.testing.assert_allclose(of(kernel("exp2"), np.array([-101.0, -1e30, -np.inf])), 2.0**-100, rtol=2e-7)


def test_what_overflows_a_logarithm_is_no_number() -> None:
    """So that a forecast of it is withheld, and does not look like one."""
    assert np.isnan(of(kernel("log"), np.array([np.inf]))).all()
    assert np.isnan(of(kernel("asinh"), np.array([1e30, -1e30, np.inf]))).all()


def test_lanes_are_added_up_and_compared() -> None:
    """Sums and the largest over the lanes stand in each of them."""
    code = Code("lanes", {"x": (Array, ()), "y": (Array, ())})
    x = code.array("x").read(0)
    for i, numbers in enumerate((code.total(x), code.largest(x))):
        code.array("y").write(i * 16, numbers)
    values, found = np.arange(16, dtype=np.float32) - 20, np.zeros(32, np.float32)
    code.compile()(values, found, rows=0)

    mine = values[: code.lanes]
    assert (found[: code.lanes] == mine.sum()).all()
    assert (found[16 : 16 + code.lanes] == mine.max()).all()


def test_a_loop_hands_on_its_state() -> None:
    """Of no turn at all it is what it was."""
    code = Code("loop", {"x": (Array, ()), "y": (Array, ())})

    def add(at: object, held: list[Floats]) -> list[Floats]:
        return [held[0] + code.array("x").spread(at)]

    (total,) = code.loop(0, code.rows, [code.constant(0.5)], add)
    code.array("y").write(0, total)
    run, found = code.compile(), np.zeros(16, np.float32)
    for rows, expected in ((0, 0.5), (1, 1.5), (5, 15.5)):
        run(np.arange(1, 17, dtype=np.float32), found, rows=rows)
        assert found[0] == expected


def test_memory_of_another_kind_is_refused() -> None:
    """A kernel reads what lies there: what is not float32 in one piece never gets to it."""
    run, whole = kernel("exp"), np.zeros((16, 2), np.float32)
    for wrong in (np.zeros(16), whole[:, 0], np.zeros(16, np.int64)):
        with pytest.raises(ValueError, match="not one of float32 in a piece"):
            run(wrong, np.zeros(16, np.float32), rows=16)


@given(st.integers(1, 200))
def test_aligned_memory_begins_with_a_line_of_the_cache(size: int) -> None:
    """Whatever its size."""
    assert aligned(size, 3).ctypes.data % 64 == 0
    assert aligned(size, 3).shape == (size, 3)


NUMBERS = st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, 50.0])
SHAPES = st.tuples(*[st.integers(1, n) for n in (3, 7, 40)])
LEVELS = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])


@given(
    values=SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=NUMBERS)),
    low=st.sampled_from([-np.inf, 0.0, -5.5]), high=st.sampled_from([np.inf, 50.0]),
    limit=NUMBERS | st.floats(-100, 100), above=st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_last_stages(values: np.ndarray, low: float, high: float, limit: float, above: bool) -> None:
    """Any number of quantiles and steps: within bounds, ascending, and breaches as ``models.breach`` reads them off."""
    rows, quantiles, horizon = values.shape
    levels = LEVELS[:quantiles]
    expected = np.sort(np.clip(values, np.float32(low), np.float32(high)), axis=1)
    chance = breach_probability(expected, levels, limit, above=above)
    nearest = np.float32(limit)
    if float(nearest) > limit:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    rules = np.tile(np.array([low, high, nearest, limit - nearest, above], np.float32), (rows, 1))
    breaches, got = np.empty((rows, 2), np.float32), values.copy()
    assert rules.shape[1] == len(RULE)

    spare = np.full((quantiles, SPARE), np.nan, np.float32)
    stages_kernel(quantiles, horizon)(got, rules, levels.astype(np.float32), breaches, spare, rows=rows)

    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(breaches[:, 0], chance.max(axis=1), atol=1e-6)
    sure = np.abs(chance - 0.5) > 1e-6
    likely = np.where(chance.max(axis=1) >= 0.5, (chance >= 0.5).argmax(axis=1), horizon)
    np.testing.assert_array_equal(breaches[sure.all(axis=1), 1], likely[sure.all(axis=1)])
