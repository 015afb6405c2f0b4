"""Pictures of a model card as PNG bytes, the same for the same figures: forecasts, calibration, skill by horizon.

Only this module imports matplotlib, and only making a card imports this module. No pyplot: nothing global is touched
for longer than a picture takes.
"""

import datetime as dt
import io
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from models.scores import MODEL, PERSISTENCE, SEASONAL_NAIVE, Curves, Evaluation, Example, quantile_at
from schemas.batch import Floats
from schemas.contract import Contract
from schemas.fields import ContractField

FAN_CHARTS, RELIABILITY, SKILL = "fan_charts.png", "reliability.png", "skill_by_horizon.png"
MOST_ROWS = 6  # targets with fan charts: more would be a picture that nobody looks at
_KINDS = {"best": "best", "median": "typical", "worst": "worst"}
_PAST_HORIZONS = 2  # so much of the past is drawn
_INK, _SOFT, _GRID, _BLUE, _ALARM = "#1b1f24", "#6a737d", "#e6e8eb", "#2a6fbb", "#c4382d"
_TRUTH = "#d9730d"
_SHADES = ("#d9e6f5", "#b3cdea", "#82abdb")  # the widest interval first
_LINES = ("#2a6fbb", "#d9730d", "#2b8a5b", "#8a4fbf", "#b5388a", "#7a6a00", "#1096a8", "#6a737d")
_DASHES = ("-", "--", ":")
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "text.color": _INK, "text.parse_math": False,
    "axes.edgecolor": "#b9bfc6", "axes.labelcolor": _INK, "axes.labelsize": 9, "axes.titlesize": 9,
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": _GRID, "grid.linewidth": 0.8, "xtick.color": _SOFT, "ytick.color": _SOFT,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.frameon": False, "legend.fontsize": 8,
    "figure.facecolor": "white", "axes.facecolor": "white",
}  # fmt: skip


def plots(contract: Contract, evaluation: Evaluation) -> dict[str, bytes]:
    """The pictures that the evaluation has the figures for, by file name."""
    found = {}
    if evaluation.examples:
        found[FAN_CHARTS] = fan_charts(contract, evaluation.examples)
    if evaluation.curves is not None:
        found[RELIABILITY] = reliability(contract, evaluation.curves)
        found[SKILL] = skill_by_horizon(contract, evaluation.curves)
    return found


def fan_charts(contract: Contract, examples: Sequence[Example]) -> bytes:
    """A row a target, at most ``MOST_ROWS``: its best, a typical and its worst forecast beside what came."""
    by_place: dict[tuple[str, str], Example] = {}
    for example in examples:  # from best to worst: of several worst ones the last, of others the first
        if example.kind == "worst" or (example.target, example.kind) not in by_place:
            by_place[example.target, example.kind] = example
    targets = [f for f in contract.targets if any((f.name, kind) in by_place for kind in _KINDS)][:MOST_ROWS]
    with _style():
        figure = Figure(figsize=(12, 2.3 * len(targets) + 0.9), layout="constrained")
        axes = figure.subplots(len(targets), len(_KINDS), squeeze=False)
        for row, target in zip(axes, targets, strict=True):
            for ax, kind in zip(row, _KINDS, strict=True):
                if (target.name, kind) in by_place:
                    _fan(ax, contract, target, by_place[target.name, kind])
                else:
                    ax.set_axis_off()
            row[0].set_ylabel(_named(target))
        for ax in axes[-1]:
            ax.set_xlabel(f"{_unit(contract)[0]} after issue")
        named = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=len(named))
        return _png(figure)


def _fan(ax: Axes, contract: Contract, target: ContractField, example: Example) -> None:
    levels = np.array(contract.settings.quantiles)
    horizon = example.quantiles.shape[1]
    past = example.past[-_PAST_HORIZONS * horizon :]
    hours = _middles(contract, -len(past), 0), _middles(contract, 0, horizon)
    bands = list(_bands(levels))
    for (low, high, share), shade in zip(bands, _SHADES[-len(bands) :] if bands else (), strict=True):
        quantiles = example.quantiles[low], example.quantiles[high]
        ax.fill_between(hours[1], *quantiles, color=shade, linewidth=0, label=f"{share:.0%} interval")
    ax.plot(hours[0], past, color=_INK, linewidth=1.1, label="past")
    ax.plot(hours[1], example.truth, color=_TRUTH, linewidth=1.2, label="what came", marker=_point(contract))
    median = quantile_at(example.quantiles, levels, 0.5)
    if median is not None:
        ax.plot(hours[1], median, color=_BLUE, linewidth=1.8, label="median", marker=_point(contract))
    elif not bands:
        ax.plot(hours[1], example.quantiles[0], color=_BLUE, linewidth=1.8, label=f"quantile {levels[0]:g}")
    ax.axvline(0, color=_SOFT, linewidth=0.8, linestyle=":")
    ax.set_xlim(_middles(contract, -len(past), -len(past) + 1)[0], hours[1][-1])
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    _threshold(ax, target)
    issued = dt.datetime.fromtimestamp(example.issued_at / 1000, dt.UTC)
    ax.set_title(f"{_KINDS[example.kind]}: {_short(example.server)}, {issued:%Y-%m-%d %H:%M} UTC", color=_SOFT)


def _threshold(ax: Axes, target: ContractField) -> None:
    """The line of the target's threshold; where that is far from all values, a word at the edge."""
    limit = target.threshold
    if limit is None:
        return
    low, high = ax.get_ylim()
    if low - 0.25 * (high - low) <= limit <= high + 0.25 * (high - low):
        ax.axhline(limit, color=_ALARM, linewidth=1, linestyle="--")
        ax.set_ylim(min(low, limit), max(high, limit + 0.04 * (high - low)))
    else:
        above = limit > high
        ax.set_ylim(low - (0 if above else 0.12) * (high - low), high + (0.12 if above else 0) * (high - low))
        ax.annotate(f"threshold {limit:g} {'↑' if above else '↓'}", (0.01, 0.98 if above else 0.02),
                    xycoords="axes fraction", va="top" if above else "bottom", fontsize=7, color=_ALARM)  # fmt: skip


def reliability(contract: Contract, curves: Curves) -> bytes:
    """How often truths lie at or below each quantile: as a diagram, and as the distance from what it should be."""
    levels = np.array(contract.settings.quantiles)
    with _style():
        figure = Figure(figsize=(10.5, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle=":", label="ideal")
        right.axhspan(-0.02, 0.02, color=_GRID, linewidth=0)
        right.axhline(0, color=_SOFT, linewidth=1, linestyle=":")
        for target, (color, dash), shares in zip(contract.targets, _looks(), curves.reliability, strict=False):
            look = {"color": color, "linestyle": dash, "marker": "o", "markersize": 4, "linewidth": 1.4}
            left.plot(levels, shares, label=target.name, **look)
            right.plot(levels, shares - levels, label=target.name, **look)
        left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", ylabel="share of truths at or below the quantile")
        right.set(xlim=(0, 1), ylabel="share - level, percentage points")
        right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:+.3g}" if share else "0"))
        for ax, title in ((left, "Reliability"), (right, "Distance from the ideal; grey: within 2 points")):
            ax.set_title(title)
            ax.set_xlabel("level of the quantile")
        _reach(right, 0.05)
        _legend(figure, left)
        return _png(figure)


def skill_by_horizon(contract: Contract, curves: Curves) -> bytes:
    """By step ahead: pinball loss against the better of persistence and seasonal-naive, and the 80 % coverage."""
    unit, _ = _unit(contract)
    ahead = _middles(contract, 0, contract.settings.horizon_steps)
    skill = _skill(curves)
    with _style():
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.axhline(0, color=_SOFT, linewidth=1)
        right.axhspan(0.78, 0.82, color=_GRID, linewidth=0)
        for row, (target, (color, dash)) in enumerate(zip(contract.targets, _looks(), strict=False)):
            look = {
                "color": color,
                "linestyle": dash,
                "linewidth": 1.4,
                "label": target.name,
                "marker": _point(contract),
            }
            left.plot(ahead, skill[row], **look)
            right.plot(ahead, curves.coverage80[row], **look)
        left.set(title="Skill: pinball loss below the better baseline's")
        right.set(title="Covered by the 80 % interval; grey: 78 to 82 %")
        _reach(left, 0.1)
        _reach(right, 0.05, around=0.8)
        for ax in (left, right):
            ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
            ax.set(xlim=(0, ahead[-1] + ahead[0]), xlabel=f"{unit} ahead")
        _legend(figure, left)
        return _png(figure)


@contextmanager
def _style() -> Iterator[None]:
    """Ours for as long as a picture takes, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _skill(curves: Curves) -> Floats:
    """[targets, horizon] 1 - the model's pinball loss / that of the better baseline; NaN where that made no error."""
    best = np.fmin(curves.pinball[PERSISTENCE], curves.pinball[SEASONAL_NAIVE])
    return np.asarray(1 - curves.pinball[MODEL] / np.where(best > 0, best, np.nan), np.float64)


def _bands(levels: Floats) -> Iterator[tuple[int, int, float]]:
    """Quantiles that are as far below 0.5 as others above, and the share between them; at most three, widest first."""
    pairs = [(i, j) for i, j in enumerate(range(len(levels) - 1, -1, -1)) if i < j]
    even = [(i, j) for i, j in pairs if np.isclose(levels[i] + levels[j], 1)]
    for i, j in even[: len(_SHADES)]:
        yield i, j, float(levels[j] - levels[i])


def _unit(contract: Contract) -> tuple[str, float]:
    """The unit of the time axis and its seconds: hours, or minutes where the horizon is short."""
    seconds = contract.settings.horizon_steps * contract.settings.step_seconds
    return ("hours", 3600.0) if seconds >= 3 * 3600 else ("minutes", 60.0) if seconds >= 180 else ("seconds", 1.0)


def _middles(contract: Contract, first: int, end: int) -> Floats:
    """Middles of steps, the first forecast step being 0, in the axis' unit from the time of issue."""
    return np.asarray((np.arange(first, end) + 0.5) * contract.settings.step_seconds / _unit(contract)[1], np.float64)


def _point(contract: Contract) -> str:
    """A line of a single step is a point."""
    return "o" if contract.settings.horizon_steps == 1 else ""


def _looks() -> Iterator[tuple[str, str]]:
    """Colour and dash of each target's line, all pairs different for the first 24 targets."""
    return itertools.cycle((color, dash) for dash in _DASHES for color in _LINES)


def _reach(ax: Axes, least: float, around: float = 0) -> None:
    """Let the axis show at least so much on both sides: a small difference must not look like a large one."""
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, around - least), max(high, around + least))


def _legend(figure: Figure, ax: Axes) -> None:
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 6))


def _named(target: ContractField) -> str:
    return f"{target.name}\n({target.unit})" if target.unit else target.name


def _short(server: str) -> str:
    """A server's name on one line of a small chart."""
    shown = "".join(c if c.isprintable() else "?" for c in server)
    return shown if len(shown) <= 24 else shown[:21] + "..."


def _png(figure: Figure) -> bytes:
    """At 100 dots per inch in 128 colours, without the date or version of what drew it."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        buffer, "png", optimize=True
    )
    return buffer.getvalue()
