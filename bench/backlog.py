"""Part of ``bench stream``: the whole service on a backlog, beside ``predict()`` of one target."""

import itertools

import numpy as np

from bench import workload
from bench.measure import interleaved, rate, ratios
from bench.peers.library import library
from bench.prefill import prefill
from bench.rates import appended_a_second
from bench.scene import Scene
from bench.tables import Report
from models.artifact import Model
from schemas.batch import Ints

PER_STEP = 5  # samples of a server in a step
_SECONDS, _SECONDS_QUICK = 15.0, 2.0  # of inference in the backlog, about
_PREDICT, _SERVICE = "predict() of one target", "the service, four targets, exactly once"
_MOST_SECONDS = 900.0
_TRIED = 64


def measure(at: Scene, partitions: int, rounds: int, report: Report, *, quick: bool) -> None:
    """Forecasts a second from the input topic to committed forecasts; half of the windows are short."""
    folder, model = workload.latest()
    contract = model.contract
    servers, n_predict = (40, 16) if quick else (400, 256)
    names, length = workload.server_names(servers), _half_short(model, servers)
    steps = _steps(model, servers, _SECONDS_QUICK if quick else _SECONDS)
    last_step = workload.START_MS // contract.step_ms + contract.settings.encoder_steps
    metrics = at.topics("backlog", partitions)
    at.publish(metrics, workload.events(contract, names, last_step + 1, steps, PER_STEP))
    single = workload.one_target(contract)
    single_folder = workload.random_model(single, at.folder / "single", model.config.network)
    single_windows = workload.windows(single, workload.lengths(single, n_predict, short=False))
    turn = itertools.count()

    def service() -> float:
        mine = at.topics(f"service{next(turn)}", partitions, metrics.metrics)
        prefill(at, model, mine, names=names, length=length, last_step=last_step)
        with at.consume(mine, folder, "--until-idle", "1") as (process, _):
            process.wait(_MOST_SECONDS)
        return appended_a_second(at.append_times(mine.forecasts))

    with library() as peer:
        peer.load("single", single_folder, single_windows)
        peer.predict("single")
        turns = {_PREDICT: lambda: n_predict / peer.predict("single"), _SERVICE: service}
        found = interleaved(turns, rounds)
    for name, samples in found.items():
        report.figure(name, "forecasts/s", samples)
    report.goal("the service over predict() of one target", "x", ratios(found[_SERVICE], found[_PREDICT]), 8, 20)
    report.notes.append(
        f"the service: {servers * steps * PER_STEP:,} events, {servers * (steps - 1):,} forecasts, {servers} servers, "
        f"every second window short at first; predict(): {n_predict} full windows, a network of the same size"
    )


def _half_short(model: Model, servers: int) -> Ints:
    """[servers] steps before the backlog: every second window is a short one."""
    contract = model.contract
    full = workload.lengths(contract, servers, short=False)
    return np.where(np.arange(servers) % 2, workload.lengths(contract, servers, short=True), full)


def _steps(model: Model, servers: int, seconds: float) -> int:
    """Steps of backlog that take about so long to forecast, as fast as inference alone is here."""
    windows = workload.windows(model.contract, _half_short(model, _TRIED))
    runtime = model.runtime()
    runtime.forecast(windows)
    speed = rate(_TRIED, lambda: runtime.forecast(windows))()
    return max(4, 1 + round(seconds * speed / servers))
