"""``bench restore``: from the start of the process to its first forecast, with a fleet's windows to bring back."""

import time
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from confluent_kafka import TopicPartition
from numpy.typing import NDArray

from bench import workload
from bench.measure import Samples, inverse, rate
from bench.peers import avro
from bench.prefill import Prefilled, commit, prefill
from bench.scene import SILENCE_SECONDS, Scene, scene, subscriber
from bench.tables import Report
from models.artifact import Model
from models.windows import WindowBatch
from schemas.batch import EventBatch
from schemas.codec import plain_schema, read_value, split
from schemas.contract import Contract
from schemas.errors import FleetcastError
from schemas.records import forecast_schema, step_schema
from schemas.topics import Topics

PARTITIONS = 6
SENDING = 60  # servers that send on, in all partitions
EQUAL = 1e-3  # of 1 + value: the numbers are random, see `workload.windows`; another place in a block may show
_SAMPLE = 50_000


def run(*, quick: bool) -> Report:
    """Measure.

    Raises:
        FleetcastError: the first forecasts are not those of the windows that were written.
    """
    folder, model = workload.latest()
    contract, rounds, servers = model.contract, 1 if quick else 2, 200 if quick else 10_000
    steps = contract.settings.encoder_steps
    names = workload.server_names(servers)
    last_step = workload.START_MS // contract.step_ms + steps
    report = Report(
        "restore",
        f"{servers:,} servers x {steps} steps in {PARTITIONS} partitions, events of {SENDING} servers waiting; "
        f"Apache Kafka on the same cores; {rounds} rounds",
        quick,
    )
    waiting = _waiting(contract, names[:SENDING], last_step + 1)
    took: list[float] = []
    with scene(contract, quick=quick) as at:
        metrics = at.topics("waiting", PARTITIONS)
        at.publish(metrics, waiting)
        for turn in range(rounds):
            topics = at.topics(f"restore{turn}", PARTITIONS, metrics.metrics)
            length = workload.lengths(contract, servers, short=False)
            written = prefill(at, model, topics, names=names, length=length, last_step=last_step, probes=SENDING)
            commit(at, topics, contract, last_step)
            found, seconds = _first_forecasts(at, folder, topics)
            took.append(seconds)
            _check(model, written, waiting, found)
        peer = _fastavro(at, topics, contract, rounds)
    report.goal("start of the process to the first correct forecast", "s", tuple(took), 30, 10, at_most=True)
    report.figure("steps that are read", "records", (float(servers * steps),))
    report.figure("fastavro loop over steps in memory", "records/s", peer)
    report.figure(
        "what so many steps would take that loop", "s", tuple(servers * steps * each for each in inverse(peer))
    )
    report.notes.append(
        f"the first forecasts are those of the windows that were written, within {EQUAL:g} of 1 + value"
    )
    return report


def _waiting(contract: Contract, names: NDArray[np.object_], step: int) -> EventBatch:
    """A sample of each server in ``step``, and then one that closes it."""
    lateness_ms = round(contract.settings.allowed_lateness_seconds * 1000)
    batch = workload.events(contract, names, step, 2, 1)
    batch.time[len(names) :] += lateness_ms
    return batch


def _first_forecasts(at: Scene, folder: Path, topics: Topics) -> tuple[list[dict[str, Any]], float]:
    """The records that came first, and seconds from the start of the process to them."""
    reader = subscriber(at)
    reader.assign([TopicPartition(topics.forecasts, partition, 0) for partition in range(PARTITIONS)])
    schema = fastavro.parse_schema(plain_schema(forecast_schema()))
    try:
        with at.consume(topics, folder) as (process, _):
            while not (messages := reader.consume(SENDING, 0.01)):
                process.check()
                if time.perf_counter() - process.started > 10 * SILENCE_SECONDS:
                    raise FleetcastError("no forecast came")
            took = time.perf_counter() - process.started
        values = [message.value() for message in messages if message.error() is None]
        return [read_value(split(value)[1], schema) for value in values if isinstance(value, bytes)], took
    finally:
        reader.close()


def _check(model: Model, written: Prefilled, waiting: EventBatch, found: list[dict[str, Any]]) -> None:
    """See that they are what the windows give: what was written before, and the step of the events that waited."""
    keys = waiting.keys.tolist()
    rows = np.array([keys.index(record["server_id"]) for record in found])
    contract = model.contract
    before = written.values[rows, 1:, : len(contract.inputs)]
    reals = np.concatenate([before, waiting.reals[rows, None, : len(contract.inputs)]], axis=1)
    categories = np.zeros((*reals.shape[:2], len(contract.categories)), np.int64)
    categories[:, -1] = waiting.enums[rows, : len(contract.categories)]
    n, settings = len(rows), contract.settings
    windows = WindowBatch(
        reals=reals.astype(np.float32), categories=categories, statics=np.empty((n, 0), np.int64),
        lengths=np.full(n, settings.encoder_steps, np.int64), held=np.zeros(n, np.int64),
        last_step=np.full(n, written.last_step + 1, np.int64),
        lag=np.zeros((n, settings.encoder_steps + settings.horizon_steps, 0), np.float32),
    )  # fmt: skip
    expected = model.runtime().forecast(windows).values
    got = np.array([[[q["values"] for q in t["quantiles"]] for t in record["targets"]] for record in found])
    worst = float((np.abs(got - expected) / (1 + np.abs(expected))).max())
    if not worst <= EQUAL:
        raise FleetcastError(f"the first forecasts differ from those of the windows by {worst:.1e} of 1 + value")


def _fastavro(at: Scene, topics: Topics, contract: Contract, rounds: int) -> Samples:
    """Steps a second of a loop over the same messages, which are in memory already."""
    messages = []
    for message in at.records(topics.steps):
        messages.append(message.value())
        if len(messages) == _SAMPLE:
            break
    values = [value for value in messages if isinstance(value, bytes)]
    read = avro.reading(plain_schema(step_schema(contract)), values)
    turn = rate(len(values), read)
    return tuple(turn() for _ in range(rounds))
