import sys
from pathlib import Path

import numpy as np
import pytest

from models.baselines import persistence
from models.boosting import Boosting
from models.evaluate import evaluate
from models.report import render
from models.samples import History
from models.scores import BOOSTING
from schemas.contract import Contract
from schemas.errors import InputError
from tests import contracts
from tests.models.affine import START_STEP, affine_model, series

CONTRACT = Contract(contracts.schema(quantiles=[0.1, 0.5, 0.9], season_steps=24))
STEPS, CUT = 700, 500


def waves(seed: int = 0) -> list[float]:
    """A sine of 24 steps with a little noise, on a level that climbs beyond what was seen before the cut."""
    steps = np.arange(STEPS)
    noise = np.random.default_rng(seed).normal(0, 0.1, STEPS)
    return (10 * np.sin(2 * np.pi * steps / 24) + 0.05 * steps + noise).tolist()


def test_beats_persistence_where_there_is_something_to_learn(tmp_path: Path) -> None:
    """On a noisy sine with a trend it halves persistence's error, at steps beyond its range of training values."""
    model = affine_model(CONTRACT, tmp_path)
    found = evaluate(model, series(CONTRACT, a=waves(), b=waves(1)), since_step=START_STEP + CUT, boosting=True)

    for horizon in ("1", "3"):
        scores = found.targets["load"][horizon]
        boosted, simple = scores[BOOSTING], scores["persistence"]
        assert boosted.mae is not None
        assert simple.mae is not None
        assert boosted.mae < 0.5 * simple.mae
        assert boosted.pinball == pytest.approx(boosted.mae / 2), "a point stands for every quantile"
    assert found.targets["load"]["all"][BOOSTING].mae is None, "only some steps are fitted"
    assert found.to_json()["targets"]["load"]["1"]["gradient_boosting"]["mae"] > 0
    assert f"{found.targets['load']['1'][BOOSTING].mae:.4g}" in render(found)


def test_is_fitted_only_on_what_lies_before_the_cut() -> None:
    """Whatever comes after the cut, forecasts at it are the same."""
    before, after = waves(), waves()
    after[CUT + 1 :] = [1e4] * (STEPS - CUT - 1)
    found = []
    for values in (before, after):
        history = History(CONTRACT, series(CONTRACT, a=values))
        boosting = Boosting(history, [0], [1, 3], START_STEP + CUT)
        at = history.samples.take(history.samples.step == START_STEP + CUT - 1)
        found.append(boosting.forecast(at))

    np.testing.assert_array_equal(found[0], found[1])
    assert np.isnan(found[0][:, [1, 3]]).all()
    assert np.isfinite(found[0][:, [0, 2]]).all()


def test_is_persistence_for_a_server_with_too_little_data() -> None:
    """A server that came late is forecast by its last value, and nothing fails."""
    values: list[float | None] = [None] * (CUT - 50)
    history = History(CONTRACT, series(CONTRACT, a=waves(), young=values + waves()[CUT - 50 :]))
    boosting = Boosting(history, [0, 1], [1, 3], START_STEP + CUT)
    young = history.samples.take((history.samples.slot == 1) & (history.samples.step >= START_STEP + CUT))

    simple = persistence(history, young)
    np.testing.assert_array_equal(boosting.forecast(young)[:, [0, 2]], simple[:, [0, 2]])
    old = history.samples.take((history.samples.slot == 0) & (history.samples.step >= START_STEP + CUT))
    assert (boosting.forecast(old)[:, 0] != persistence(history, old)[:, 0]).all()


def test_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cut, without data before it or without scikit-learn there is a sentence that says what to do."""
    model, batch = affine_model(CONTRACT, tmp_path), series(CONTRACT, a=waves())
    with pytest.raises(InputError, match="say since when"):
        evaluate(model, batch, boosting=True)
    with pytest.raises(InputError, match="no server has 100 observed steps before the first forecast judged"):
        evaluate(model, batch, boosting=True, since_step=START_STEP + 20)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(InputError, match=r"pip install 'fleetcast\[evaluate\]'"):
        evaluate(model, batch, boosting=True, since_step=START_STEP + CUT)


def test_is_there_only_when_asked_for(tmp_path: Path) -> None:
    """Without --boosting the JSON has the three forecasters that it always had."""
    found = evaluate(affine_model(CONTRACT, tmp_path), series(CONTRACT, a=range(40)))

    assert list(found.to_json()["targets"]["load"]["1"]) == ["model", "persistence", "seasonal_naive"]
