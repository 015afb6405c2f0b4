"""The ratios of all sub-commands as bars."""

from pathlib import Path
from typing import Any

from bench.measure import Spread
from bench.tables import Goal, Report, number


def ratios_of(reports: list[Report]) -> list[Goal]:
    """The goals that are ratios to a peer: at least so many times as fast."""
    return [goal for report in reports for goal in report.goals if goal.figure.unit == "x" and not goal.at_most]


def plot(reports: list[Report], file: Path) -> bool:
    """Write a PNG; False where there is no ratio to draw."""
    import matplotlib as mpl  # noqa: PLC0415  slow to load

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  after its backend is chosen

    goals = ratios_of(reports)
    if not goals:
        return False
    figure, axes = plt.subplots(figsize=(9, 1 + 0.55 * len(goals)), layout="constrained")
    _bars(axes, goals)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return True


def _bars(axes: Any, goals: list[Goal]) -> None:
    spreads = [Spread.of(goal.figure.samples) for goal in goals]
    rows = list(range(len(goals)))
    medians = [s.median for s in spreads]
    errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    colours = ["#2a9d8f" if goal.reached else "#e76f51" for goal in goals]
    axes.barh(rows, medians, xerr=errors, color=colours, error_kw={"ecolor": "#444444", "lw": 1})
    axes.scatter([g.goal for g in goals], rows, marker="|", s=300, color="black", label="goal", zorder=3)
    aims = [(goal.aim, row) for goal, row in zip(goals, rows, strict=True) if goal.aim is not None]
    if aims:
        axes.scatter(*zip(*aims, strict=True), marker="|", s=300, color="#888888", label="aim", zorder=3)
    for row, median in zip(rows, medians, strict=True):
        axes.annotate(f"{number(median)} x", (median, row), xytext=(4, 8), textcoords="offset points", fontsize=8)
    axes.set_yticks(rows, [goal.figure.what for goal in goals], fontsize=8)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xlabel("times as fast as the peer, same run; median, from smallest to largest round")
    axes.legend(fontsize=8, loc="lower right")
