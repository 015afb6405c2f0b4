from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from models.episodes import Foresight, Track, beginnings, best, quiet, runs, tally, watched
from models.evaluate import evaluate
from models.foresight import NO_KIND, PUBLISHED, Breaches, Incidents, incidents_beside, judge_breaches
from models.report import render
from models.samples import History, Samples
from schemas.contract import Contract
from schemas.errors import DataError, InputError
from tests import contracts
from tests.contracts import field
from tests.models.affine import START_STEP, affine_model, series

HORIZON = 12
CONTRACT = Contract(
    contracts.schema(
        field("load", "double", "target", breach_above=90), quantiles=[0.1, 0.5, 0.9], horizon_steps=HORIZON
    )
)
LOW, HIGH = 50.0, 95.0


def values(steps: int, *breaches: tuple[int, int]) -> list[float]:
    """A quiet server that is above the threshold from each first to before each second step."""
    found = [LOW] * steps
    for start, end in breaches:
        found[start:end] = [HIGH] * (end - start)
    return found


def track(begins: list[int], alarms: list[int], n: int = 200, **changes: object) -> Track:
    """A forecast at each of ``n`` steps that alarms where it is said; episodes of one step."""
    issued = np.arange(n)
    beyond = np.isin(issued, begins)
    chance = np.isin(issued, alarms) * 0.9
    found = {
        "issued": issued, "chance": chance, "weight": np.ones(n), "begins": np.array(begins, np.int64), "last": n - 1,
        "quiet": quiet(beyond)[:-1],
    }  # fmt: skip
    return Track(**{**found, **changes})  # type: ignore[arg-type]


def test_an_episode_begins_after_twelve_quiet_steps() -> None:
    """A breach within twelve steps of the last one goes on with it, a later one is another, and NaN is no breach."""
    beyond = np.zeros(60, bool)
    beyond[[0, 1, 5, 18, 40, 52]] = True

    assert beginnings(beyond).tolist() == [0, 18, 40]
    assert quiet(beyond)[[0, 1, 17, 18, 19, 30, 31]].tolist() == [True, False, False, True, False, False, True]
    target = watched(CONTRACT)[0]
    assert target.beyond(np.array([[95], [90], [np.nan], [91]], np.float32)).tolist() == [True, False, False, True]


def test_a_breach_may_be_below() -> None:
    """With breach_below, what lies under the threshold is the breach and the alarm."""
    contract = Contract(contracts.schema(field("free", "double", "target", breach_below=10), quantiles=[0.1, 0.5, 0.9]))
    target = watched(contract)[0]
    quantiles = np.array([[[[20, 5]] * 3], [[[20, 20]] * 3]], np.float32)  # [2 windows, 1 target, 3 quantiles, 2 steps]

    assert target.beyond(np.array([[9], [11]], np.float32)).tolist() == [True, False]
    assert target.chance(quantiles, np.array([0.1, 0.5, 0.9])).tolist() == [1, 0]


def test_three_steps_without_alarm_do_not_end_a_run() -> None:
    """Alarms four steps apart are one run, five apart are two; no alarm is no run."""
    first, last = runs(np.array([3, 7, 8, 13, 20]))

    assert (first.tolist(), last.tolist()) == ([3, 13, 20], [8, 13, 20])
    assert len(runs(np.array([], np.int64))[0]) == 0
    assert len(runs(np.array([2, 8]), every=3)[0]) == 1, "forecasts every third step: one without alarm between"


@pytest.mark.parametrize(
    ("alarms", "warning"),
    [
        (range(90, 100), 10),
        (range(70, 100), HORIZON),
        ([97], 3),
        ([94], 6),
        ([93], 0),
        ([98, 99], 0),
        ([89, 93, 96], 11),
        ([88, 89, 96], 4),
    ],
    ids=["all along", "older than horizon", "three ahead", "stands still", "was over", "too late", "gaps", "new run"],
)  # fmt: skip
def test_an_episode_is_foreseen_by_a_run_that_stands_three_steps_ahead(alarms: list[int], warning: int) -> None:
    """The run's first alarm gives the warning, at most the horizon; a run that ended before or began later does not."""
    found, warnings = tally(track([100], list(alarms)), PUBLISHED, HORIZON)

    assert warnings == {100: warning}
    assert (found.judged, found.foreseen) == (1, int(warning > 0))
    assert found.warnings == ((warning,) if warning else ())


def test_an_alarm_is_right_when_a_breach_follows_within_the_horizon() -> None:
    """The breach may come at the first alarm's last step or while the run stands; later the alarm was false."""
    for alarms, right in (([89], 1), ([88], 0), (list(range(60, 100)), 1), ([100], 1), ([60, 89], 1)):
        found, _ = tally(track([100], alarms), PUBLISHED, HORIZON)
        assert found.true_alarms == right, alarms
        assert found.alarms == len(runs(np.array(alarms))[0])


def test_a_confirmed_alarm_is_one_that_the_forecast_before_gave_too() -> None:
    """One forecast by itself alarms nobody; of a run the first alarm goes, and the warning with it."""
    for alarms, confirmed, warning in (
        ([89], 0, 0),
        ([89, 90], 1, 0),
        (list(range(90, 100)), 1, 9),
        ([88, 90, 92], 0, 0),
    ):
        found, warnings = tally(track([100], alarms).confirmed(1), PUBLISHED, HORIZON)
        assert (found.alarms, warnings) == (confirmed, {100: warning}), alarms

    every_third = track([100], [90, 93, 96], issued=np.arange(0, 200, 3), chance=np.full(67, 0.9))
    assert np.isnan(every_third.confirmed(1).chance).all(), "the forecast before is three steps old"
    assert every_third.confirmed(3).chance.tolist()[1:] == [0.9] * 66


def test_alarms_within_an_episode_and_unverifiable_ones_do_not_count() -> None:
    """Alarms count from the thirteenth step after a breach on, and runs if their whole horizon was observed."""
    assert tally(track([100], list(range(101, 113))), PUBLISHED, HORIZON)[0].alarms == 0
    assert tally(track([100], [113]), PUBLISHED, HORIZON)[0].alarms == 1
    assert tally(track([100], [150], last=160), PUBLISHED, HORIZON)[0].alarms == 0
    assert tally(track([100], [150], last=161), PUBLISHED, HORIZON)[0].alarms == 1


def test_an_episode_without_a_forecast_three_steps_ahead_is_not_judged() -> None:
    """Where that forecast was withheld or is outside what was drawn, nothing could be foreseen."""
    chance = np.full(200, 0.9)
    chance[97] = np.nan
    weight = np.ones(200)
    weight[97] = 0

    assert tally(track([100], [], chance=chance), PUBLISHED, HORIZON)[0].judged == 0
    assert tally(track([100], [], weight=weight), PUBLISHED, HORIZON)[0].judged == 0
    assert tally(track([2], []), PUBLISHED, HORIZON)[0].judged == 0


def test_every_foreseen_episode_has_a_right_alarm() -> None:
    """Whatever the alarms, there are no foreseen episodes without a right run, and no more right runs than runs."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        begins = np.cumsum(rng.integers(13, 60, 4)).tolist()
        found, _ = tally(
            track(begins, np.flatnonzero(rng.random(200) < rng.random() ** 2).tolist()), PUBLISHED, HORIZON
        )
        assert found.foreseen <= found.judged
        assert found.true_alarms <= found.alarms
        assert bool(found.true_alarms) or not found.foreseen


def judge(servers: dict[str, list[float]], forecast: str, most: int = 10_000, **more: object) -> Breaches:
    history = History(CONTRACT, series(CONTRACT, **servers))
    return judge_breaches(history, history.samples, FORECASTS[forecast](history), most=most, **more)  # type: ignore[arg-type]


def oracle(history: History) -> Callable[[Samples], NDArray[np.float32]]:
    """All quantiles are what will be."""

    def forecast(samples: Samples) -> NDArray[np.float32]:
        future = np.nan_to_num(history.future(samples), nan=LOW).transpose(0, 2, 1)
        return np.repeat(future[:, :, None], 3, axis=2)

    return forecast


def flashing(history: History) -> Callable[[Samples], NDArray[np.float32]]:
    """A lone alarm every ten steps, whatever happens."""
    shape = (1, 3, history.contract.settings.horizon_steps)
    return lambda s: np.broadcast_to(
        np.where(s.step % 10 == 0, HIGH, LOW)[:, None, None, None], (len(s), *shape)
    ).astype(np.float32)


FORECASTS = {
    "oracle": oracle,
    "flashing": flashing,
    "silent": lambda _: lambda s: np.full((len(s), 1, 3, HORIZON), LOW, np.float32),
    "withheld": lambda _: lambda s: np.full((len(s), 1, 3, HORIZON), np.nan, np.float32),
}


def test_an_oracle_foresees_everything_and_cries_never() -> None:
    """With the future as its forecast every breach is foreseen from the horizon's last step on, without false alarm."""
    found = judge({"a": values(300, (100, 110), (200, 203)), "b": values(300), "c": values(300, (60, 61))}, "oracle")

    at = found.total[PUBLISHED]
    assert found.episodes == {"load": 3}
    assert (at.judged, at.foreseen, at.recall, at.precision) == (3, 3, 1, 1)
    assert at.warning_minutes == (HORIZON - 1) * CONTRACT.settings.step_seconds / 60
    assert found.share == 1
    assert found.targets["load"] == found.total
    assert best(found.total) == 0.9


def test_silence_foresees_nothing() -> None:
    """Without an alarm there is no recall, and no precision either; what is withheld cannot be judged."""
    servers = {"a": values(300, (100, 110))}
    silent, withheld = judge(servers, "silent").total[PUBLISHED], judge(servers, "withheld").total[PUBLISHED]

    assert (silent.recall, silent.precision, silent.warning_minutes) == (0, None, None)
    assert (withheld.judged, withheld.recall) == (0, None)
    assert best(judge(servers, "silent").total) is None


def test_what_is_drawn_stands_for_the_whole_time() -> None:
    """Alarms and precision of a tenth of the windows are about those of all; every breach still counts once."""
    rng = np.random.default_rng(1)
    servers = {f"s{i}": values(1500, *((s, s + 5) for s in rng.integers(50, 1400, int(i % 3 == 0)))) for i in range(40)}
    all_of_it, drawn = judge(servers, "flashing", most=10**6), judge(servers, "flashing", most=6000)

    assert all_of_it.share == 1
    assert drawn.share < 0.13
    whole, part = all_of_it.total[PUBLISHED], drawn.total[PUBLISHED]
    assert part.judged == whole.judged == 14
    assert part.runs < 0.2 * whole.runs
    assert part.alarms == pytest.approx(whole.alarms, rel=0.05)
    assert part.precision == pytest.approx(whole.precision, rel=0.35)
    assert whole.precision is not None
    assert whole.precision < 0.01
    assert drawn.to_json() == judge(servers, "flashing", most=6000).to_json(), "it is deterministic"


def test_incidents_give_recall_by_kind(tmp_path: Path) -> None:
    """An episode belongs to the incident of its server that it falls into; without one its kind is none."""
    step = CONTRACT.step_ms
    start = START_STEP * step
    frame = pd.DataFrame(
        {
            "server_id": ["a", "b"],
            "kind": ["leak", "cascade"],
            "lead_in_start": pd.to_datetime([start + 80 * step, start + 80 * step], unit="ms", utc=True),
            "breach_start": pd.to_datetime([start + 100 * step, start + 100 * step], unit="ms", utc=True),
            "end": pd.to_datetime([start + 110 * step, start + 110 * step], unit="ms", utc=True),
        }
    )
    frame.to_parquet(tmp_path / "incidents.parquet")
    incidents = incidents_beside(tmp_path / "metrics.parquet")
    assert incidents is not None
    found = judge({"a": values(300, (100, 110), (200, 203)), "b": values(300)}, "oracle", incidents=incidents)

    assert {kind: (f.judged, f.foreseen) for kind, f in found.kinds.items()} == {"leak": (1, 1), NO_KIND: (1, 1)}
    assert incidents_beside(tmp_path / "elsewhere" / "metrics.parquet") is None
    (tmp_path / "incidents.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="holds no incidents"):
        incidents_beside(tmp_path)


def test_incidents_are_matched_by_server() -> None:
    """Another server's incident at the same time says nothing of this one's."""
    incidents = Incidents(["b", "a"], ["leak", "cascade"], np.array([0, 0]), np.array([100, 100]))

    assert (incidents.at("a", 10, 20), incidents.at("c", 10, 20), incidents.at("a", 101, 120)) == (
        "cascade",
        NO_KIND,
        NO_KIND,
    )


def test_the_published_alarm_is_judged(tmp_path: Path) -> None:
    """``evaluate`` judges the model's own forecasts: one that is always 45 above the last value always alarms."""
    model = affine_model(CONTRACT, tmp_path, [45, 45, 45])
    batch = series(CONTRACT, a=values(200, (100, 105)))
    found = evaluate(model, batch, breach_windows=1000)
    assert found.breaches is not None
    at: Foresight = found.breaches.total[PUBLISHED]

    assert (at.judged, at.foreseen, at.warning_minutes) == (1, 1, HORIZON * CONTRACT.settings.step_seconds / 60)
    assert (at.alarms, at.precision) == (2, 0.5), "one run before the breach, one after it"
    plain = found.to_json()["breaches"]
    assert plain["total"]["0.5"]["recall"] == 1
    assert plain["episodes"] == {"load": 1}
    assert "best recall at a precision of 80 % or more: no p reaches it" in render(found)
    assert evaluate(model, batch).breaches is None


def test_a_contract_without_thresholds_has_no_breaches(tmp_path: Path) -> None:
    """It is said, not counted as nothing foreseen."""
    plain = Contract(contracts.schema(quantiles=[0.1, 0.5, 0.9]))
    with pytest.raises(InputError, match="no target of the contract has breach_above"):
        evaluate(affine_model(plain, tmp_path), series(plain, a=range(20)), breach_windows=100)
