"""``bench inference``: forecasts a second, beside pytorch-forecasting's ``predict()`` and its plain batched forward."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import models.runtime
from bench.measure import interleaved, rate, ratios
from bench.peers.library import Library, library
from bench.tables import Report
from bench.workload import latest, lengths, windows
from models.artifact import Model
from models.runtime import Runtime
from models.windows import WindowBatch
from schemas.errors import FleetcastError

BATCHES = (16, 32, 64, 128, 256, 512)
EQUAL = 1e-4  # of 1 + value
MOST_OFF = 1e-4  # of all values; float32 alone moves some of the library's own as far
_PREDICT, _PREDICT_SHORT, _FORWARD = "predict(), full windows", "predict(), short windows", "plain forward"
_OURS, _SHORT = "fleetcast, full windows", "fleetcast, short windows"


def run(*, quick: bool) -> Report:
    """Measure.

    Raises:
        FleetcastError: our numbers are not the library's.
    """
    folder, model = latest()
    contract = model.contract
    n, n_predict, rounds = (32, 16, 2) if quick else (1024, 256, 5)
    n_forward = min(n, BATCHES[-1])
    full = windows(contract, lengths(contract, n, short=False))
    short = windows(contract, lengths(contract, n, short=True))
    report = Report("inference", f"{model.version}, {n} windows ({n_predict} a predict()), {rounds} rounds", quick)
    runtime = model.runtime()
    with library() as peer:
        _load(peer, folder, full, short, n_predict)
        _check_equal(peer, runtime, full.take(slice(n_predict)), short.take(slice(n_predict)), report)
        batch = _best_batch(peer, BATCHES[:2] if quick else BATCHES)
        turns = {
            _PREDICT: lambda: n_predict / peer.predict("full"),
            _OURS: _forecasting(runtime, full),
            f"{_FORWARD} in batches of {batch}": lambda: n_forward / peer.forward("forward", batch),
            _PREDICT_SHORT: lambda: n_predict / peer.predict("short"),
            _SHORT: _forecasting(runtime, short),
            **({} if quick else _engines(model, full, report)),
        }
        found = interleaved(turns, rounds)
    for name, samples in found.items():
        report.figure(name, "forecasts/s", samples)
    plain = found[f"{_FORWARD} in batches of {batch}"]
    report.goal("fleetcast over predict()", "x", ratios(found[_OURS], found[_PREDICT]), 12, 40)
    report.goal("fleetcast over the plain forward at its best batch", "x", ratios(found[_OURS], plain), 4, 10)
    return report


def _load(peer: Library, folder: Path, full: WindowBatch, short: WindowBatch, n_predict: int) -> None:
    peer.load("full", folder, full.take(slice(n_predict)))
    peer.load("short", folder, short.take(slice(n_predict)))
    peer.load("forward", folder, full.take(slice(BATCHES[-1])))


def _forecasting(runtime: Runtime, batch: WindowBatch) -> Any:
    """A turn; the first call, which compiles, is made here."""
    runtime.forecast(batch)
    return rate(len(batch), lambda: runtime.forecast(batch))


def _engines(model: Model, full: WindowBatch, report: Report) -> dict[str, Any]:
    """A turn for each engine, where the runtime has several."""
    turns = {}
    for engine in getattr(models.runtime, "ENGINES", ()):
        if engine == "auto":
            continue
        try:
            turns[f"engine {engine}, full windows"] = _forecasting(cast("Any", model).runtime(engine), full)
        except FleetcastError as error:
            report.notes.append(f"engine {engine} is left out: {error}")
    return turns


def _best_batch(peer: Library, batches: tuple[int, ...]) -> int:
    """The batch size at which the plain forward is quickest, of the better of two tries each."""
    return min(batches, key=lambda batch: min(peer.forward("forward", batch) for _ in range(2)))


def _check_equal(peer: Library, runtime: Runtime, full: WindowBatch, short: WindowBatch, report: Report) -> None:
    """See that the numbers are the library's, but for what float32 alone moves: its own distance from float64 is told.

    Raises:
        FleetcastError: more than one value in 10,000 differs by more than ``EQUAL``.
    """
    found = []
    for name, batch in (("full", full), ("short", short)):
        expected = peer.predicted(name)
        found.append(np.abs(runtime.raw(batch) - expected) / (1 + np.abs(expected)))
    off, rounding = np.concatenate(found), peer.rounding("full")
    report.notes.append(
        f"{_over(off)} differ from predict() by more than {EQUAL:g} of 1 + value, the largest by {off.max():.1e} "
        f"(full and short windows); {_over(rounding)} of the library's float32 forward differ that much from its own "
        f"float64, the largest by {rounding.max():.1e} (full windows)"
    )
    if not np.mean(off > EQUAL) <= MOST_OFF:
        raise FleetcastError(f"forecasts are not pytorch-forecasting's: {report.notes[-1]}")


def _over(difference: NDArray[Any]) -> str:
    return f"{int((difference > EQUAL).sum())} of {difference.size:,} values"
