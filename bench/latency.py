"""``bench latency``: from the event that closes a step to its forecasts at a read_committed subscriber."""

import time
from collections.abc import Iterator

import numpy as np
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray

from bench import workload
from bench.measure import Samples, interleaved, percentile, rate
from bench.peers.library import library
from bench.prefill import prefill
from bench.scene import SILENCE_SECONDS, Scene, scene, subscriber
from bench.tables import Report
from models.artifact import Model
from schemas.batch import EventBatch
from schemas.errors import FleetcastError
from schemas.topics import Topics

COMMIT_SECONDS = 0.2  # the default of `consume`
INFERENCE_SECONDS = 0.25  # as many servers are due at once as this much inference
_SETTLE_SECONDS = 0.7  # between a step's events and the one that closes it
_TRIED = 1024
_FEW = 500  # servers, whatever this machine forecasts in that time
_WARM_UPS, _WARM_UPS_QUICK = 15, 1  # steps: a broker just started takes twice as long, until its JVM has compiled


def run(*, quick: bool) -> Report:
    """Measure."""
    folder, model = workload.latest()
    contract, ticks, warm_ups = model.contract, 2 if quick else 30, _WARM_UPS_QUICK if quick else _WARM_UPS
    servers = _servers(model)
    report = Report(
        "latency",
        f"{servers} servers due at once, one partition, commit interval {COMMIT_SECONDS} s, {ticks} steps "
        f"after {warm_ups} to warm up; Apache Kafka on the same cores",
        quick,
    )
    last_step = workload.START_MS // contract.step_ms + contract.settings.encoder_steps
    names = workload.server_names(servers)
    with scene(contract, quick=quick) as at:
        topics = at.topics("latency", 1)
        length = workload.lengths(contract, servers, short=False)
        prefill(at, model, topics, names=names, length=length, last_step=last_step)
        with at.consume(topics, folder, "--commit-interval", str(COMMIT_SECONDS)) as (process, port):
            process.wait_ready(port)
            reader = subscriber(at)
            reader.assign([TopicPartition(topics.forecasts, 0, 0)])
            try:
                found = list(_ticks(at, reader, topics, names, range(last_step + 1, last_step + 1 + warm_ups + ticks)))
                following = last_step + 1 + warm_ups + ticks
                few = list(_ticks(at, reader, topics, names[:_FEW], range(following, following + ticks // 2)))
            finally:
                reader.close()
    found = found[warm_ups:]
    each = [latency for tick in found for latency in tick]
    per_tick = [tuple(percentile(tick, percent) for tick in found) for percent in (50, 99)]
    report.goal("closing event to forecast, p50", "ms", (percentile(each, 50),), 350, 150, at_most=True)
    report.goal("closing event to forecast, p99", "ms", (percentile(each, 99),), 600, 300, at_most=True)
    report.figure("p50 of each step", "ms", per_tick[0])
    report.figure("p99 of each step", "ms", per_tick[1])
    report.figure("the last forecast of each step", "ms", tuple(max(tick) for tick in found))
    report.figure(f"p50 of each step of {len(few[0])} servers", "ms", tuple(percentile(tick, 50) for tick in few))
    report.figure("predict() alone on as many windows", "ms", _predict(model, servers, quick=quick))
    report.notes.append(f"{len(each)} forecasts; the clock is that of the process that sends and subscribes")
    return report


def _servers(model: Model) -> int:
    """As many as ``INFERENCE_SECONDS`` of inference forecast here."""
    windows = workload.windows(model.contract, workload.lengths(model.contract, _TRIED, short=False))
    runtime = model.runtime()
    runtime.forecast(windows)
    found = interleaved({"": rate(_TRIED, lambda: runtime.forecast(windows))}, 3)
    return max(1, round(INFERENCE_SECONDS * percentile(found[""], 50)))


def _ticks(at: Scene, reader: Consumer, topics: Topics, names: NDArray[np.object_], steps: range) -> Iterator[Samples]:
    """Latencies in ms of each step's forecasts, which the reader has before it."""
    contract = at.contract
    lateness_ms = round(contract.settings.allowed_lateness_seconds * 1000)
    with at.publisher(topics, **{"linger.ms": 0}) as publisher:
        for step in steps:
            publisher.publish(workload.events(contract, names, step, 1, 1))
            publisher.flush()
            time.sleep(_SETTLE_SECONDS)
            closing = _closing(at, names, step, lateness_ms)
            began = time.perf_counter()
            publisher.publish(closing)
            publisher.flush()
            yield tuple(1000 * (arrival - began) for arrival in _arrivals(reader, len(names)))


def _closing(at: Scene, names: NDArray[np.object_], step: int, lateness_ms: int) -> EventBatch:
    """One event, of the next step, that moves the watermark to the end of ``step``."""
    event = workload.events(at.contract, names[:1], step + 1, 1, 1)
    event.time[:] += lateness_ms
    return event


def _arrivals(reader: Consumer, wanted: int) -> list[float]:
    """When each of the next ``wanted`` records arrived."""
    found: list[float] = []
    heard = time.monotonic()
    while len(found) < wanted:
        messages = reader.consume(wanted - len(found), 0.005)
        now = time.perf_counter()
        for message in messages:
            if (error := message.error()) is not None:
                raise FleetcastError(f"forecasts cannot be read: {error.str()}")
            found.append(now)
            heard = time.monotonic()
        if time.monotonic() - heard > SILENCE_SECONDS:
            raise FleetcastError(f"{len(found)} of {wanted} forecasts came")
    return found


def _predict(model: Model, servers: int, *, quick: bool) -> Samples:
    """Milliseconds of the peer for the same number of windows."""
    folder, _ = workload.latest()
    n = min(servers, 16) if quick else servers
    with library() as peer:
        peer.load("due", folder, workload.windows(model.contract, workload.lengths(model.contract, n, short=False)))
        return tuple(1000 * peer.predict("due") * servers / n for _ in range(1 if quick else 3))
