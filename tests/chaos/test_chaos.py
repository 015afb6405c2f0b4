"""Exactly once on a real broker, however rudely the members, the broker and the registry are treated."""

from pathlib import Path

import pytest

from devstack import Stack
from tests.chaos.report import Report
from tests.chaos.run import Plan, run
from tests.chaos.schedule import Counts, schedule

pytestmark = pytest.mark.integration
LEAST_REFUSED = 5


def judge(report: Report) -> None:
    """Nothing lost, doubled or different, and enough of everything that it means something."""
    print(f"\n{report}")
    assert report.clean, str(report)
    assert set(report.stages) == {"decode", "validate", "late"}
    assert min(report.stages.values()) >= LEAST_REFUSED


@pytest.mark.timeout(400)
def test_a_few_disturbances_change_nothing(stack: Stack, tmp_path: Path) -> None:
    """Members killed, stopped, joining: the same forecasts, steps and dead letters as if nothing had happened."""
    plan = Plan(events=25_000, servers=60, seed=1, counts=Counts(kill=3, churn=1, broker=0, stop=1, registry=0))

    report = run(plan, stack, tmp_path, "chaos-short")

    judge(report)
    assert report.verdicts["forecasts"].records > 2_000
    assert len(report.gaps) == 5


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_forty_disturbances_change_nothing(stack: Stack, tmp_path: Path) -> None:
    """Half a million events, 20 kills, 10 comings and goings, 3 dead brokers, 3 stopped members, 2 lost registries."""
    plan = Plan()

    report = run(plan, stack, tmp_path, "chaos-full")

    judge(report)
    assert report.verdicts["forecasts"].records > 80_000
    assert len(report.gaps) == 38


def test_the_schedule_comes_from_its_seed() -> None:
    """The same seed, the same disturbances; each kind as often as asked for, kills of every aim in both ways."""
    counts = Counts()

    found = schedule(counts, seed=5)

    assert found == schedule(counts, seed=5)
    assert found != schedule(counts, seed=6)
    assert {c: sum(d.cause == c for d in found) for c in ("kill", "churn", "broker", "stop", "registry")} == {
        "kill": 20, "churn": 10, "broker": 3, "stop": 3, "registry": 2,
    }  # fmt: skip
    kills = {(d.aim, d.same) for d in found if d.cause == "kill"}
    assert kills == {(aim, same) for aim in ("any", "transaction", "start", "restore") for same in (True, False)}
