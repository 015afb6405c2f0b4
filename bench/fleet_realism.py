"""How the simulated fleet compares with real servers: a table and three plots for docs/fleet.md."""

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from producer.fleet import Fleet
from producer.incidents import SCENARIOS
from schemas.contract import Contract

MONDAY_MS = 1_767_571_200_000  # 2026-01-05
SEED = 1
DAY, HOUR = 288, 12  # steps of five minutes
METRICS = ("cpu", "memory", "load")
PAIRS = (("cpu", "load"), ("cpu", "memory"), ("cpu", "disk"))
# The real machines report how busy their disks are, the simulated ones how much they read and write.
_REAL = {"cpu": "cpu_percent", "memory": "memory_percent", "load": "load_average", "disk": "disk_percent"}
_SIMULATED = {**_REAL, "disk": "disk_io_mb_s"}
_GREY, _DARK, _BLUE, _NAVY = "#9a9a9a", "#222222", "#7fb2e5", "#0b4f94"
Series = NDArray[np.float64]  # [steps] of one server, or [servers, points] of a curve for each
Traces = dict[str, pd.DataFrame]  # metric to [steps, servers], NaN while a server is away


def real_traces(file: Path) -> Traces:
    """Five-minute means of the Server Machine Dataset."""
    return _steps(pd.read_parquet(file, columns=["timestamp", "server_id", *_REAL.values()]), _REAL)


def simulated_traces(servers: int, days: int, scenario: str) -> Traces:
    """Five-minute means of a fleet's one-minute samples."""
    contract = Contract.load()
    batch = Fleet(contract, servers, SEED, scenario).metrics(MONDAY_MS, 60, days * 1440)
    reals = {field.name: batch.reals[:, i] for i, field in enumerate(contract.reals)}
    times = pd.to_datetime(batch.time, unit="ms", utc=True)
    columns = {name: reals[name] for name in _SIMULATED.values()}
    return _steps(pd.DataFrame({"timestamp": times, "server_id": batch.keys, **columns}), _SIMULATED)


def _steps(frame: pd.DataFrame, columns: dict[str, str]) -> Traces:
    frame["step"] = frame["timestamp"].dt.floor("5min")
    means = frame.pivot_table(index="step", columns="server_id", values=list(columns.values()), observed=True)
    return {metric: means[column].asfreq("5min") for metric, column in columns.items()}


def correlation(a: Series, b: Series) -> float:
    """Of two series, over the steps that both have; NaN where one is constant."""
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > DAY and a.std() > 0 and b.std() > 0 else np.nan


def lagged(a: Series, b: Series, lag: int) -> float:
    """Correlation of ``a`` with what ``b`` is ``lag`` steps later."""
    if lag < 0:
        return lagged(b, a, -lag)
    return correlation(a[: len(a) - lag], b[lag:])


def autocorrelation(x: Series, lag: int) -> float:
    """Of a series with itself ``lag`` steps later."""
    return lagged(x, x, lag)


def daily_profile(x: Series) -> Series:
    """[288] the mean at each time of day, in standard deviations from the mean; both data begin at midnight."""
    whole = x[: len(x) // DAY * DAY].reshape(-1, DAY)
    profile: Series = (np.nanmean(whole, axis=0) - np.nanmean(x)) / np.nanstd(x)
    return profile


def daily_share(x: Series) -> float:
    """Of the variance, what the time of day explains: 0 to 1."""
    return float(daily_profile(x).var())


def tail(x: Series) -> float:
    """How far out large moves are: the 99 % quantile of the changes' sizes over their mean; 3.2 if normal."""
    moves = np.abs(np.diff(x))
    return float(np.nanquantile(moves, 0.99) / np.nanmean(moves))


def statistics() -> Iterator[tuple[str, tuple[str, ...], Callable[..., float]]]:
    """The table's rows: a name, the metrics it is about, and what is computed of a server's series of them."""
    for metric in METRICS:
        for name, lag in (("5 min", 1), ("1 h", HOUR), ("1 day", DAY), ("1 week", 7 * DAY)):
            yield f"{metric}: autocorrelation, {name}", (metric,), partial(autocorrelation, lag=lag)
        yield f"{metric}: autocorrelation of changes, 5 min", (metric,), _successive_changes
        yield f"{metric}: variance explained by time of day", (metric,), daily_share
        yield f"{metric}: large changes (99 % quantile over mean)", (metric,), tail
    for pair in PAIRS:
        yield f"{' and '.join(pair)}: correlation", pair, correlation
        yield f"{' and '.join(pair)}: correlation of changes", pair, _changes_together


def _successive_changes(x: Series) -> float:
    return autocorrelation(np.diff(x), 1)


def _changes_together(a: Series, b: Series) -> float:
    return correlation(np.diff(a), np.diff(b))


def series(traces: Traces, metrics: tuple[str, ...]) -> Iterator[tuple[Series, ...]]:
    """For each server its series of the metrics."""
    for server in traces["cpu"].columns:
        yield tuple(traces[metric][server].to_numpy() for metric in metrics)


def table(real: Traces, simulated: Traces) -> str:
    """All statistics as Markdown: median and quartiles over servers, so that 8 and 40 of them can be compared."""
    lines = ["| | real: median (quartiles) | simulated: median (quartiles) |", "|---|---|---|"]
    for name, metrics, law in statistics():
        cells = []
        for traces in (real, simulated):
            values = [law(*of_server) for of_server in series(traces, metrics)]
            low, middle, high = np.nanquantile(values, (0.25, 0.5, 0.75))
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Look:
    """How a group's servers are drawn: thin lines in one colour, their median in another."""

    label: str
    line: str
    median: str


LOOKS = (Look("real", _GREY, _DARK), Look("simulated", _BLUE, _NAVY))


def _curves(ax: Axes, x: Series, curves: tuple[Series, Series]) -> None:
    """A thin line for each server, simulated ones below, and the medians above all."""
    for look, lines, layer in zip(LOOKS, curves, (2, 1), strict=True):
        thin = {"color": look.line, "linewidth": 0.7, "alpha": 0.8 if layer == 2 else 0.45}
        ax.plot(x, lines.T, zorder=layer, **thin)
        ax.plot(x, np.nanmedian(lines, axis=0), color=look.median, linewidth=2, zorder=3, label=f"{look.label}, median")
    ax.axhline(0, color="#444444", linewidth=0.6, zorder=0)
    ax.grid(color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    for look in LOOKS:
        handles.append(ax.plot([], [], color=look.line, linewidth=1)[0])
        labels.append(f"{look.label}, each server")
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)


def plot_autocorrelation(real: Traces, simulated: Traces) -> Figure:
    """Short lags above, up to a week below."""
    short, long = np.arange(2 * HOUR + 1), np.arange(0, 7 * DAY + 1, 6)
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, len(METRICS), sharey="row")
    for row, (lags, unit, name, floor) in enumerate(((short, HOUR, "hours", -0.05), (long, DAY, "days", -0.8))):
        for ax, metric in zip(axes[row], METRICS, strict=True):
            curves = tuple(
                np.array([[autocorrelation(x, lag) for lag in lags] for (x,) in series(traces, (metric,))])
                for traces in (real, simulated)
            )
            _curves(ax, lags / unit, curves)
            ax.set(title=f"{metric}, lags in {name}", xlim=(0, lags[-1] / unit), ylim=(floor, 1.02))
        axes[row, 0].set_ylabel("autocorrelation")
    _legend(figure, axes[0, 0])
    return figure


def plot_crosscorrelation(real: Traces, simulated: Traces) -> Figure:
    """Levels above, changes from step to step below."""
    lags = np.arange(-2 * HOUR, 2 * HOUR + 1)
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, len(PAIRS), sharex=True, sharey=True)
    for row, (of, prepare) in enumerate((("levels", np.asarray), ("changes", np.diff))):
        for ax, pair in zip(axes[row], PAIRS, strict=True):
            curves = tuple(
                np.array([[lagged(prepare(a), prepare(b), lag) for lag in lags] for a, b in series(traces, pair)])
                for traces in (real, simulated)
            )
            _curves(ax, lags / HOUR, curves)
            ax.set(xlim=(-2, 2), ylim=(-0.6, 1.02))
            if row == 0:
                ax.set_title(" and ".join(pair))
            else:
                ax.set_xlabel(f"hours by which {pair[1]} is later")
        axes[row, 0].set_ylabel(f"correlation of {of}")
    _legend(figure, axes[0, 0])
    return figure


def plot_daily_profile(real: Traces, simulated: Traces) -> Figure:
    """Each server's mean by time of day: real ones above, simulated below."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, len(METRICS), sharex=True, sharey=True)
    hours = np.arange(DAY) / HOUR
    for row, (look, traces) in enumerate(zip(LOOKS, (real, simulated), strict=True)):
        for ax, metric in zip(axes[row], METRICS, strict=True):
            profiles = np.array([daily_profile(x) for (x,) in series(traces, (metric,))])
            ax.plot(hours, profiles.T, color=look.median, linewidth=0.8, alpha=0.8 if row == 0 else 0.45)
            ax.axhline(0, color="#444444", linewidth=0.6, zorder=0)
            ax.grid(color="#e4e4e4", linewidth=0.6)
            ax.set(xlim=(0, 24), ylim=(-3, 3), xticks=range(0, 25, 6), title=f"{metric}, {look.label}")
        axes[row, 0].set_ylabel("standard deviations")
    for ax in axes[1]:
        ax.set_xlabel("hour of the day")
    return figure


PLOTS = {
    "fleet_autocorrelation.png": plot_autocorrelation,
    "fleet_crosscorrelation.png": plot_crosscorrelation,
    "fleet_daily_profile.png": plot_daily_profile,
}


def save(figure: Figure, file: Path) -> None:
    """As a small PNG: 24 colours are plenty for lines."""
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_png(drawn)
    image = Image.open(drawn).convert("RGB")
    image.quantize(24, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)


def main() -> int:
    """Print the table and write the plots; 2 where the real servers are not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/smd_servers.parquet"), metavar="FILE")
    parser.add_argument("--images", type=Path, default=Path("docs/images"), metavar="DIR")
    parser.add_argument("--servers", type=int, default=40)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--scenario", choices=SCENARIOS, default="mixed")
    options = parser.parse_args()
    if not options.data.is_file():
        sys.stderr.write(f"{options.data} is not there; name the real servers' parquet file with --data.\n")
        return 2
    real = real_traces(options.data)
    simulated = simulated_traces(options.servers, options.days, options.scenario)
    sys.stdout.write(table(real, simulated) + "\n")
    options.images.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTS.items():
        figure = draw(real, simulated)
        figure.set_dpi(110)
        save(figure, options.images / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
