from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.artifact import Model
from models.samples import History, Samples
from schemas.contract import Contract
from tests import contracts
from tests.models.conftest import events, random_model

# Positions within a block differ in the order of float32 sums; the promise (docs: "equal") is 1e-4.
RELATIVE = 1e-5
CONTRACT = contracts.rich(
    step_seconds=3600, encoder_steps=12, min_encoder_steps=4, horizon_steps=5, known=["hour", "season_lag"]
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, History, Samples, np.ndarray]:
    """A model, and 60 windows, full and short ones, with the forecast of each alone."""
    history = History(CONTRACT, events(CONTRACT, servers=6, steps=60))
    model = random_model(CONTRACT, history, tmp_path_factory.mktemp("models"))
    samples = history.samples.take(np.linspace(0, len(history.samples) - 1, 60).astype(int))
    lengths = np.minimum(samples.available, CONTRACT.settings.encoder_steps)
    assert lengths.min() < CONTRACT.settings.encoder_steps == lengths.max()
    runtime = model.runtime()
    alone = [runtime.forecast(history.windows(samples.take(np.array([i])))).values[0] for i in range(60)]
    return model, history, samples, np.stack(alone)


def worst(got: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(got - expected) / (1 + np.abs(expected))).max())


@given(rows=st.lists(st.integers(0, 59), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_company_does_not_show(fleet: tuple[Model, History, Samples, np.ndarray], rows: list[int]) -> None:
    """A server's forecast is the same alone and in any batch, in any order, repeated or not, full or short."""
    model, history, samples, alone = fleet
    got = model.runtime().forecast(history.windows(samples.take(np.array(rows)))).values

    assert worst(got, alone[rows]) <= RELATIVE


def test_in_its_place_it_is_bit_for_bit(fleet: tuple[Model, History, Samples, np.ndarray]) -> None:
    """At one place of a block of full windows, not a bit depends on who the neighbours are."""
    model, history, samples, alone = fleet
    full = np.flatnonzero(samples.available >= CONTRACT.settings.encoder_steps)
    rng = np.random.default_rng(0)
    runtime = model.runtime()

    for _ in range(5):
        rows = rng.permutation(full)[:16]
        got = runtime.forecast(history.windows(samples.take(rows))).values
        assert np.array_equal(got[0], alone[rows[0]])


@given(sizes=st.lists(st.integers(0, 20), max_size=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_begun_together(fleet: tuple[Model, History, Samples, np.ndarray], sizes: list[int]) -> None:
    """Batches that share their blocks give, one after another, what each window alone gives."""
    model, history, samples, alone = fleet
    ends = np.cumsum(sizes, dtype=np.intp)
    rows = [np.arange(end - size, end) % 60 for size, end in zip(sizes, ends, strict=True)]
    got = model.runtime().start([history.windows(samples.take(part)) for part in rows]).result()

    assert len(got.values) == sum(sizes)
    for part, end in zip(rows, ends, strict=True):
        mine = got.take(slice(end - len(part), end))
        assert mine.finite.all()
        assert not len(part) or worst(mine.values, alone[part]) <= RELATIVE


def test_an_absurd_neighbour_spoils_nobody(fleet: tuple[Model, History, Samples, np.ndarray]) -> None:
    """A window whose numbers make the network overflow is withheld; its neighbours' forecasts stand."""
    model, history, samples, alone = fleet
    windows = history.windows(samples.take(np.arange(20)))
    windows.reals[7] = np.inf
    quantiles = model.runtime().forecast(windows)

    others = np.arange(20) != 7
    assert quantiles.finite.tolist() == others.tolist()
    assert worst(quantiles.values[others], alone[:20][others]) <= RELATIVE


def test_nobody_due(fleet: tuple[Model, History, Samples, np.ndarray]) -> None:
    """No window, no forecast, no error."""
    model, history, samples, _ = fleet
    nobody = history.windows(samples.take(np.array([], np.intp)))

    assert model.runtime().forecast(nobody).values.shape == (0, 2, 7, 5)


def test_quantiles_ascend_within_bounds(make_model: Callable[[Contract, History], Model]) -> None:
    """Published quantiles never cross, and none leaves the contract's bounds."""
    bounded = Contract(
        contracts.schema(contracts.field("load", "double", "target", minimum=1, maximum=3), encoder_steps=6)
    )
    history = History(bounded, events(bounded, servers=3, steps=30))
    model = make_model(bounded, history)
    quantiles = model.runtime().forecast(history.windows(history.samples))

    assert (np.diff(quantiles.values, axis=2) >= 0).all()
    assert quantiles.values.min() >= 1
    assert quantiles.values.max() <= 3
    assert quantiles.finite.all()
