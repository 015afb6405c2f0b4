import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench import everything
from bench.measure import Spread, interleaved, percentile, rate, ratios
from bench.rates import FIRST_MS, appended_a_second
from bench.tables import Report
from fleetcast.__main__ import cli
from fleetcast.commands.bench import SUBJECTS
from schemas.errors import FleetcastError, InputError

POSITIVE = st.floats(1e-6, 1e6)
MACHINE = {"cpu", "cores", "vectors", "memory_gib", "load_average", "python", "librdkafka", "packages"}


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_a_spread_holds_its_samples(samples: list[float]) -> None:
    """Median between smallest and largest, whatever their order."""
    found = Spread.of(samples)

    assert found == Spread.of(sorted(samples, reverse=True))
    assert found.low == min(samples) <= found.median <= max(samples) == found.high
    assert found.median == statistics.median(samples)


def test_nothing_measured_is_no_figure() -> None:
    """Neither a spread nor a percentile of nothing, nor a run of no rounds."""
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)
    with pytest.raises(ValueError, match="0 rounds"):
        interleaved({"a": lambda: 1.0}, 0)


@given(st.integers(1, 6), st.integers(1, 4))
def test_turns_alternate(rounds: int, sides: int) -> None:
    """Each side has one turn a round, always in the same order, and keeps its own samples."""
    order: list[int] = []

    def turn(side: int) -> float:
        order.append(side)
        return float(len(order))

    found = interleaved({str(side): lambda side=side: turn(side) for side in range(sides)}, rounds)  # type: ignore[misc]

    assert order == list(range(sides)) * rounds
    assert found == {str(s): tuple(float(s + 1 + sides * r) for r in range(rounds)) for s in range(sides)}


@given(st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE), min_size=1, max_size=9))
def test_drift_does_not_show_in_a_ratio(rounds: list[tuple[float, float, float]]) -> None:
    """A machine that is slower in one round slows both sides: the round's ratio stays."""
    ours = tuple(a for a, _, _ in rounds)
    peer = tuple(b for _, b, _ in rounds)
    slowed = ratios(tuple(a * c for a, _, c in rounds), tuple(b * c for _, b, c in rounds))

    assert slowed == pytest.approx(ratios(ours, peer))


def test_a_ratio_is_of_the_same_rounds() -> None:
    """Samples of different rounds have no ratio."""
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratios((1.0, 2.0), (1.0,))


@given(st.lists(POSITIVE, min_size=1, max_size=50), st.floats(1, 100))
def test_a_percentile_is_a_sample_that_enough_do_not_exceed(samples: list[float], percent: float) -> None:
    """The nearest rank: at least that share of the samples lies at or below it, and no smaller sample does as much."""
    found = percentile(samples, percent)
    enough = math.ceil(len(samples) * percent / 100 - 1e-9)

    assert found in samples
    assert sum(s <= found for s in samples) >= enough
    assert sum(s < found for s in samples) < enough


def test_a_rate_is_things_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten things in two seconds are five a second."""
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))

    assert rate(10, lambda: None)() == 5


@pytest.mark.parametrize("speed", [100, 1_000, 5_000])
def test_the_first_round_of_writing_is_not_counted(speed: int) -> None:
    """However much was made before the first append, the speed told is that of what followed, and never above it."""
    later = FIRST_MS + np.arange(1, 10 * speed) * 1000 / speed
    times = np.sort(np.concatenate([np.zeros(100_000), later])).astype(np.int64)

    told = appended_a_second(times)

    assert 0.95 * speed < told <= speed


def test_too_short_a_run_has_no_speed() -> None:
    """What was all written at once says nothing, and says so."""
    with pytest.raises(FleetcastError, match="3 records"):
        appended_a_second(np.array([1, 2, FIRST_MS]))


def test_goals_say_whether_they_are_reached() -> None:
    """At least or at most, by the median; the page has what the table has."""
    report = Report("x", "nothing", quick=False)
    report.goal("fast", "x", (9.0, 11.0, 13.0), 10, 20)
    report.goal("slow", "ms", (500.0,), 350, 150, at_most=True)
    report.goal("quick", "ms", (100.0,), 350, 150, at_most=True)

    assert [goal.verdict for goal in report.goals] == ["reached", "missed", "aim reached"]
    for text in (report.as_text(), report.as_markdown()):
        assert all(word in text for word in ("fast", "11", ">= 10 (aim 20)", "missed", "aim reached"))


def test_the_page_has_its_plot(tmp_path: Path) -> None:
    """One section a sub-command, and a picture of the ratios beside it."""
    report = Report("codec", "nothing", quick=True)
    report.goal("ours over theirs", "x", (2.0, 3.0), 2, None)

    everything.write([report], tmp_path / "page.md")

    page = (tmp_path / "page.md").read_text()
    assert "## `fleetcast bench codec`" in page
    assert "say nothing" in page, "a quick run is marked"
    assert (tmp_path / "images" / "page.png").read_bytes().startswith(b"\x89PNG")


def test_what_else_stands_on_the_page_stays(tmp_path: Path) -> None:
    """The last run's figures give way to this one's; text around them does not; a page without a place is refused."""
    page = tmp_path / "page.md"
    everything.write([Report("codec", "the first", quick=False)], page)
    page.write_text("before\n" + page.read_text() + "after\n")

    everything.write([Report("codec", "the second", quick=False)], page)

    text = page.read_text()
    assert text.startswith("before\n# Benchmarks")
    assert text.endswith("after\n")
    assert "the second" in text
    assert "the first" not in text
    page.write_text("mine")
    with pytest.raises(InputError, match=r"page\.md has no <!-- bench: begin -->"):
        everything.write([], page)
    assert page.read_text() == "mine"


def test_every_subject_is_offered() -> None:
    """The names of the issue, and all of them in `bench all`."""
    assert set(SUBJECTS) == set(everything.NAMES)
    assert set(everything.NAMES) == {"inference", "codec", "stream", "latency", "restore", "memory", "scaling"}


def run_quick(name: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["bench", name, "--quick", "--json"])
    assert done.exit_code == 0, done.output + str(done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_sane(found: dict[str, Any]) -> None:
    assert found["quick"] is True
    assert found["machine"].keys() >= MACHINE
    assert found["figures"]
    assert found["goals"]
    for figure in found["figures"] + found["goals"]:
        assert 0 < figure["low"] <= figure["median"] <= figure["high"] < math.inf, figure["what"]
        assert figure["samples"]
        assert figure["unit"]
    for goal in found["goals"]:
        assert goal["reached"] == (
            goal["median"] <= goal["goal"] if goal["at_most"] else goal["median"] >= goal["goal"]
        )


def test_codec() -> None:
    """Both sides of each direction are measured, and their bytes were equal, else it would have failed."""
    found = run_quick("codec")

    assert_sane(found)
    whats = [figure["what"] for figure in found["figures"]]
    for what in ("decode events", "encode events", "encode steps", "encode forecasts"):
        assert f"{what}, fleetcast" in whats
        assert f"{what}, fastavro loop" in whats


@pytest.mark.timeout(600)
def test_inference() -> None:
    """The product, `predict()` and the plain forward are measured on the same windows, whose forecasts are equal."""
    found = run_quick("inference")

    assert_sane(found)
    assert [goal["goal"] for goal in found["goals"]] == [12, 4]
    assert any("differ from predict()" in note for note in found["notes"])
