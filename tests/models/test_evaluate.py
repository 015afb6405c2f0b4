import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from models.artifact import Model
from models.baselines import seasonal_scale
from models.evaluate import Scope, evaluate, evaluate_trained
from models.report import groups_table, render
from models.samples import History
from models.scores import FORECASTERS, Evaluation, Score, pinball, quantile_at, skill
from schemas.batch import EventBatch
from schemas.contract import Contract
from schemas.errors import DataError, InputError
from tests import contracts
from tests.models.affine import START_STEP, affine_model, affine_trained, series
from tests.models.conftest import events

SMALL = Contract(contracts.schema(quantiles=[0.1, 0.5, 0.9], season_steps=3))
LEVELS = np.array(SMALL.settings.quantiles)
LONG = contracts.rich(encoder_steps=8, min_encoder_steps=4, horizon_steps=14)


def test_scores_by_target_and_horizon_are_plain_json(make_model: Callable[[Contract, History], Model]) -> None:
    """Every target has the horizons 1, 3, 12 and all, every forecaster its four figures, and all of it is JSON."""
    batch = events(LONG, servers=4, steps=60)
    found = json.loads(json.dumps(evaluate(make_model(LONG, History(LONG, batch)), batch).to_json(), allow_nan=False))

    assert list(found["targets"]) == ["load", "queue"]
    for horizons in found["targets"].values():
        assert list(horizons) == ["1", "3", "12", "all"]
        for scores in horizons.values():
            assert list(scores) == list(FORECASTERS)
            assert all(list(score) == ["mae", "pinball", "coverage80", "mase"] for score in scores.values())
    assert found["servers"] == 4
    assert found["windows"] == found["candidates"] > 0
    assert found["model_version"] == "tft_model_20260101_000000"


def test_figures_equal_those_computed_by_hand(tmp_path: Path) -> None:
    """On the line y = t, quantiles y, y + 2, y + 4 give the figures that pencil and paper give, each pair once."""
    found = evaluate(affine_model(SMALL, tmp_path, [0, 1, 2]), series(SMALL, a=range(7)))

    # Steps 0 to 5 close; windows of 3 steps end at 2, 3 and 4, which makes 3, 2 and 1 pairs at 1, 2 and 3 steps ahead.
    # Truth y + h, 3 more than a season before: MASE is MAE / 3.
    # Pinball over the three quantiles: 0.9 / 3, 0.4 / 3, 0.9 / 3; season-naive is 3 below the truth.
    load = found.targets["load"]
    assert list(load) == ["1", "3", "all"], "horizons beyond the contract's are left out"
    assert found.windows == 3
    assert_scores(load["1"]["model"], Score(1, 0.3, 1, 1 / 3))
    assert_scores(load["3"]["model"], Score(1, 0.3, 1, 1 / 3))
    mae = (3 * 1 + 2 * 0 + 1 * 1) / 6
    assert_scores(load["all"]["model"], Score(mae, (3 * 0.3 + 2 * 0.4 / 3 + 0.3) / 6, 1, mae / 3))
    assert_scores(load["1"]["persistence"], Score(1, 0.5, 0, 1 / 3))
    assert_scores(load["3"]["persistence"], Score(3, 1.5, 0, 1))
    assert_scores(load["all"]["persistence"], Score(10 / 6, 5 / 6, 0, 10 / 18))
    assert_scores(load["all"]["seasonal_naive"], Score(3, 1.5, 0, 1))


def test_coverage_counts_truths_between_the_outer_quantiles(tmp_path: Path) -> None:
    """A truth on a quantile is covered, one beyond is not."""
    found = evaluate(affine_model(SMALL, tmp_path, [0, 0.25, 1]), series(SMALL, a=range(30)))

    assert found.targets["load"]["1"]["model"].coverage80 == 1
    assert found.targets["load"]["3"]["model"].coverage80 == 0
    pairs = {1: 26, 2: 25, 3: 24, 4: 23}  # 29 steps close, 27 windows
    assert found.targets["load"]["all"]["model"].coverage80 == (pairs[1] + pairs[2]) / sum(pairs.values())


@pytest.mark.parametrize("contract", [SMALL, LONG], ids=["small", "every role"])
def test_a_network_that_gives_zero_is_persistence(contract: Contract, tmp_path: Path) -> None:
    """The zero forecast's figures are those of persistence, to the last bit."""
    found = evaluate(affine_model(contract, tmp_path), events(contract, servers=3, steps=80))

    for horizons in found.targets.values():
        for scores in horizons.values():
            assert scores["model"] == scores["persistence"]
            assert scores["model"].mae, "it is not trivially so"


def test_a_constant_is_forecast_without_error(tmp_path: Path) -> None:
    """On a constant series the zero forecast and both baselines have no error and cover every truth; skill is open."""
    found = evaluate(affine_model(SMALL, tmp_path), series(SMALL, a=[7.5] * 20, b=[0.1] * 20))

    for scores in found.targets["load"].values():
        assert set(scores.values()) == {Score(0, 0, 1)}
        assert skill(scores, "mae") is None


def test_held_steps_are_no_truth(tmp_path: Path) -> None:
    """A step that nobody observed is not judged, though the window holds a value for it."""
    found = evaluate(affine_model(SMALL, tmp_path), series(SMALL, a=[0, 1, 2, 3, None, 5, 6, 7]))

    # One step ahead: 2 to 3 and 5 to 6, each off by 1. The held 4th step would have been "forecast" without error.
    assert found.targets["load"]["1"]["persistence"].mae == 1


def test_quantiles_between_the_contracts_are_linear_and_beyond_them_unknown(tmp_path: Path) -> None:
    """The median lies between its neighbours' values; without 0.1 and 0.9 within the levels there is no coverage."""
    values = np.array([[1.0], [3.0], [9.0]])
    levels = np.array([0.05, 0.4, 0.8])
    between = quantile_at(values, levels, 0.5)
    assert between is not None
    assert between == pytest.approx(3 + 6 * 0.25)
    assert quantile_at(values, levels, 0.9) is None

    contract = Contract(contracts.schema(quantiles=[0.05, 0.4, 0.8], season_steps=3))
    scores = evaluate(affine_model(contract, tmp_path, [0, 2, 4]), series(contract, a=range(7))).targets["load"]["1"]
    assert scores["model"].mae == pytest.approx(abs(1 - (4 + 0.25 * 4)))
    assert {score.coverage80 for score in scores.values()} == {None}


def test_windows_are_spread_over_servers_and_time(tmp_path: Path) -> None:
    """Of too many windows so many as allowed are judged, of every server in proportion and from first to last."""
    contract = Contract(contracts.schema(quantiles=[0.1, 0.5, 0.9]))
    batch = series(contract, **{f"s{i}": range(203) for i in range(8)})
    found = evaluate(affine_model(contract, tmp_path), batch, max_windows=80)

    assert (found.windows, found.candidates, found.servers) == (80, 8 * 199, 8)
    first, last = (START_STEP + 3) * contract.step_ms, (START_STEP + 201) * contract.step_ms
    assert found.first_issued_at - first < 20 * contract.step_ms
    assert last - found.last_issued_at < 20 * contract.step_ms
    assert found == evaluate(affine_model(contract, tmp_path / "again"), batch, max_windows=80), "it is deterministic"
    with pytest.raises(InputError, match="max_windows: 0"):
        evaluate(affine_model(contract, tmp_path / "none"), batch, max_windows=0)


def test_after_training_only_later_windows_are_judged() -> None:
    """No window is judged whose first forecast step lies before the cut."""
    batch = events(SMALL, servers=3, steps=80)
    cut = int(batch.time[0]) // SMALL.step_ms + 60
    found = evaluate_trained(affine_trained(SMALL), batch, Scope(since_step=cut))

    assert found.first_issued_at == cut * SMALL.step_ms
    assert found.model_version is None
    assert found.windows < evaluate_trained(affine_trained(SMALL), batch, Scope()).windows


def test_a_forecast_that_is_not_finite_is_left_out_for_all(tmp_path: Path) -> None:
    """Windows whose output overflows are counted as withheld, and the baselines are not judged on them either."""
    model = affine_model(SMALL, tmp_path, [0, 0, 3e38])  # times 1 + mean difference: only the moving server overflows
    found = evaluate(model, series(SMALL, calm=[5] * 10, moving=range(10)))

    assert (found.windows, found.withheld, found.servers) == (6, 6, 1)
    assert found.targets["load"]["all"]["persistence"].mae == 0
    with pytest.raises(DataError, match="not finite for any of 6 windows"):
        evaluate(model, series(SMALL, moving=range(10)))


@pytest.mark.parametrize(
    ("values", "since_step", "message"),
    [
        ([], 0, "no events"),
        ([1], 0, "spans less than one step"),
        ([1, 2, 3], 0, r"no server has 3 steps \(min_encoder_steps\) of 10 s"),
        ([1, 2, 3, 4], 0, "nothing was observed in the 4 steps after any of 1 windows"),
        ([*range(20)], START_STEP + 50, "none of 17 is issued at or after 2023-"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_judged_it_says_why(
    values: list[float], since_step: int, message: str, tmp_path: Path
) -> None:
    """Too short a history is a DataError that names what is missing."""
    model = affine_model(SMALL, tmp_path)
    batch = series(SMALL, a=values) if values else EventBatch.empty(SMALL)
    with pytest.raises(DataError, match=message):
        evaluate(model, batch, since_step=since_step)


def test_the_table_shows_every_score_and_the_skill(tmp_path: Path) -> None:
    """The text has a row per target and horizon, with skill against the better of the two baselines."""
    found = evaluate(affine_model(SMALL, tmp_path, [0, 0.25, 1]), series(SMALL, a=range(30)))
    rows = {line.split()[1]: line.split() for line in first_table(render(found)) if line.startswith("load")}

    # MAE 0.5, persistence 1, seasonal-naive 3; pinball (0.1 + 0.25 + 0.1) / 3.
    assert rows["1"] == ["load", "1", "0.5", "1", "3", "50.0", "0.15", "0.5", "1.5", "70.0", "100.0"]
    assert list(rows) == ["1", "3", "all"]
    assert "26 of 26 windows of 1 servers" in render(found)


def test_figures_that_do_not_exist_are_shown_as_a_dash() -> None:
    """Without a quantile 0.1 or a baseline's error there is a dash, not a number."""
    nothing = dict.fromkeys(FORECASTERS, Score(0, 0, None))
    found = Evaluation(None, 1, 1, 0, 1, 0, 0, {"late": 2}, {"load": {"1": nothing}})

    assert first_table(render(found))[-1].split() == ["load", "1", *"000-000--"]
    assert render(found).splitlines()[-1].split() == ["load", "1", *"-----"]
    assert "events refused: 2 (late)" in render(found)


def first_table(text: str) -> list[str]:
    """The lines between the title and the next table."""
    return text.split("\n\n")[1].splitlines()


def assert_scores(found: Score, expected: Score) -> None:
    for name in Score.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12), name


def test_mase_of_seasonal_naive_on_its_own_data_is_one(tmp_path: Path) -> None:
    """What errors are measured in is seasonal-naive's own error, whatever the server's size."""
    rng = np.random.default_rng(0)
    wild = rng.normal(0, 1000, 3)
    tame = [float(x + 0.1 * (i // 3) * (-1) ** i) for i, x in enumerate(np.tile(rng.normal(0, 1, 3), 20))]
    servers = {"wild": [float(wild[i % 3] + 500 * (i // 3)) for i in range(60)], "tame": tame}
    found = evaluate(affine_model(SMALL, tmp_path), series(SMALL, **servers)).targets["load"]

    # From one season to the next the wild server moves by 500, at the horizons up to a season just once.
    assert found["1"]["seasonal_naive"].mase == pytest.approx(1, rel=0.05)
    alone = evaluate(affine_model(SMALL, tmp_path / "one"), series(SMALL, wild=servers["wild"])).targets["load"]
    assert alone["1"]["seasonal_naive"].mase == pytest.approx(1, rel=1e-6)


def test_mase_rests_on_what_lies_before_the_cut() -> None:
    """A server's scale is its seasonal difference before the cut, the one-step one where no season fits, or none."""
    history = History(
        SMALL, series(SMALL, a=[*range(20), *range(20, 400, 20)], b=[5.0] * 39, c=[None] * 17 + [1, 3, 2, 9])
    )
    scale = seasonal_scale(history, range(3), START_STEP + 20)

    assert scale[:, 0] == pytest.approx([3, np.nan, 1.5], nan_ok=True)
    assert seasonal_scale(history, [0])[0, 0] > 3, "without a cut it rests on all"
    assert np.isnan(seasonal_scale(history, [0])[1, 0]), "only those asked for"


def test_forecasts_are_judged_until_a_time_too(tmp_path: Path) -> None:
    """Those issued at the last time are in, later ones are not, and an empty span is refused."""
    model, batch = affine_model(SMALL, tmp_path), series(SMALL, a=range(40))
    found = evaluate(model, batch, since_step=START_STEP + 10, until_step=START_STEP + 20)

    assert found.windows == 11
    assert found.last_issued_at == (START_STEP + 20) * SMALL.step_ms
    with pytest.raises(InputError, match="until lies before since"):
        evaluate(model, batch, since_step=START_STEP + 10, until_step=START_STEP + 9)
    with pytest.raises(DataError, match="at or after 1970-01-01T00:00:00Z and at or before 2023-"):
        evaluate(model, batch, until_step=START_STEP)


def test_seen_and_unseen_servers_are_told_apart() -> None:
    """Their windows add up to all, each group has its own figures, and the text shows how much worse the unseen are."""
    trained = affine_trained(SMALL, [0, 0.25, 1])
    trained.metadata.update(trained_servers=["a", "gone"], held_out_servers=["b"])
    batch = series(SMALL, a=range(30), b=[float(i % 2) for i in range(30)])
    found = evaluate_trained(trained, batch, Scope())

    assert {name: (group.windows, group.servers) for name, group in found.groups.items()} == {
        "seen": (26, 1), "unseen": (26, 1),
    }  # fmt: skip
    assert found.groups["seen"].targets == evaluate_trained(trained, series(SMALL, a=range(30)), Scope()).targets
    assert found.to_json()["groups"]["unseen"]["targets"]["load"]["1"]["model"]["mae"] > 0
    assert "1 seen (26 windows), 1 unseen (26 windows)" in render(found)
    (row,) = groups_table(found)
    seen, unseen = (skill(found.groups[name].targets["load"]["all"], "pinball") for name in ("seen", "unseen"))
    assert seen is not None
    assert unseen is not None
    assert row[3] == f"{(1 - unseen) / (1 - seen):.4g}"
    alone = evaluate_trained(trained, series(SMALL, b=range(30)), Scope())
    assert list(alone.groups) == ["unseen"], "whichever there is"
    assert evaluate_trained(affine_trained(SMALL), batch, Scope()).groups == {}, "an older artifact does not tell"


@pytest.mark.parametrize(
    ("metadata", "since_step", "warned"),
    [
        ({}, 0, True),
        ({"first_validation_step": START_STEP + 20}, START_STEP + 10, True),
        ({"first_validation_step": START_STEP + 20}, START_STEP + 20, False),
        ({"first_validation_step": START_STEP + 20, "refit_windows": 9}, START_STEP + 20, True),
        ({"data_sha256": "other"}, 0, False),
    ],
)
def test_warns_when_the_model_was_trained_on_what_is_judged(
    metadata: dict[str, object], since_step: int, warned: bool, tmp_path: Path
) -> None:
    """The same data is fine only from the time on that training left out, if a refit did not take that in too."""
    batch = series(SMALL, a=range(40))
    model = affine_model(SMALL, tmp_path)
    model.metadata.update({"data_sha256": batch.sha256(), **metadata})
    with capture_logs() as logs:
        evaluate(model, batch, since_step=since_step)

    assert any("trained on this data" in entry["event"] for entry in logs) == warned


def test_curves_agree_with_the_scores(tmp_path: Path) -> None:
    """Each step's figures are those of the horizon's score, and reliability is the share at or below each quantile."""
    found = evaluate(affine_model(SMALL, tmp_path, [0, 0.25, 1]), series(SMALL, a=range(30)))
    curves, load = found.curves, found.targets["load"]
    assert curves is not None

    assert curves.coverage80.shape == (1, 4)
    for horizon in (1, 3):
        for who in FORECASTERS:
            assert curves.mae[who][0, horizon - 1] == load[str(horizon)][who].mae
            assert curves.pinball[who][0, horizon - 1] == load[str(horizon)][who].pinball
        assert curves.coverage80[0, horizon - 1] == load[str(horizon)]["model"].coverage80
    # Quantiles y, y + 0.5, y + 2; truths y + 1 to y + 4 of 26, 25, 24 and 23 windows: y + 2 is above the first two.
    assert curves.reliability[0] == pytest.approx([0, 0, (26 + 25) / 98])


def test_examples_are_the_best_the_median_and_the_worst(tmp_path: Path) -> None:
    """Two of each by loss beside the window's own movement, with what the model saw, what came and what it said."""
    rng = np.random.default_rng(0)
    found = evaluate(affine_model(SMALL, tmp_path, [-1, 0, 1]), series(SMALL, a=rng.normal(0, 1, 80), still=[1.0] * 80))

    assert [example.kind for example in found.examples] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2
    assert {example.server for example in found.examples} == {"a"}, "a window that never moves has no scale"
    for example in found.examples:
        assert (example.past.shape, example.truth.shape, example.quantiles.shape) == ((6,), (4,), (3, 4))
        assert example.quantiles[1] == pytest.approx(example.past[-1]), "the newest value is the last"
        assert example.pinball == pytest.approx(np.nanmean(pinball(example.truth, example.quantiles, LEVELS)))
        assert found.first_issued_at <= example.issued_at <= found.last_issued_at
    relative = [example.pinball / np.nanmean(np.abs(np.diff(example.past))) for example in found.examples]
    assert relative == sorted(relative)
