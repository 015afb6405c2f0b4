"""``bench stream``: files into Kafka, Kafka to forecasts, and Kafka to windows, on a real Apache Kafka."""

import threading
from pathlib import Path

from bench import backlog, unforecast
from bench.measure import interleaved, rate, ratios
from bench.peers import producing
from bench.scene import Scene, scene
from bench.tables import Report
from bench.workload import START_MS, latest, without_forecasts
from producer.generate import generate
from producer.pacing import SystemClock
from producer.publish import Publisher
from producer.replay import replay
from schemas.batch import EventBatch
from schemas.history import read_history
from schemas.topics import Topics

PARTITIONS = 4
_LOOPED = 100_000  # rows that the peer's loop sends
_LOOP = "fastavro and produce() in a loop, rows ready made"


def run(*, quick: bool) -> Report:
    """Measure."""
    _, model = latest()
    servers, hours, rounds = (200, 12, 1) if quick else (1000, 20, 3)
    long = without_forecasts(model.contract)
    report = Report("stream", "", quick)
    with scene(long, quick=quick) as at:
        made = generate(
            at.folder / "fleet",
            long,
            servers=servers,
            hours=hours,
            start_ms=START_MS,
            seed=1,
            interval_s=unforecast.INTERVAL_S,
        )
        report.workload = (
            f"Apache Kafka and {at.stack.registry} registry on the same cores, {PARTITIONS} partitions; a generated "
            f"fleet of {servers} servers, {made.rows:,} rows; {rounds} rounds"
        )
        topics = _replayed(at, made.metrics, rounds, report)
        unforecast.measure(at, topics, PARTITIONS, rounds, report, quick=quick)
    with scene(model.contract, quick=quick) as at:
        backlog.measure(at, PARTITIONS, rounds, report, quick=quick)
    return report


def _replayed(at: Scene, file: Path, rounds: int, report: Report) -> Topics:
    """Speed of ``replay --speed max``; the topics of its last round."""
    events = read_history([file], at.contract)
    report.figure(
        "reading the parquet file", "rows/s", (rate(len(events), lambda: read_history([file], at.contract))(),)
    )
    made: list[Topics] = []

    def ours() -> float:
        made.append(at.topics(f"replayed{len(made)}", PARTITIONS))
        with at.publisher(made[-1]) as publisher:
            publisher.connect()
            return rate(len(events), lambda: _replay(publisher, events))()

    some = events.take(slice(_LOOPED))
    records = producing.records(some, at.contract)

    def peer() -> float:
        topic = at.topics(f"looped{len(made)}", PARTITIONS).metrics
        return rate(len(some), producing.loop(at.kafka, topic, at.contract, records))()

    found = interleaved({_LOOP: peer, "replay": ours}, rounds)
    report.figure(_LOOP, "rows/s", found[_LOOP])
    report.goal("replay --speed max, into Kafka", "rows/s", found["replay"], 150_000, 300_000)
    report.figure(f"replay over {_LOOP}", "x", ratios(found["replay"], found[_LOOP]))
    return made[-1]


def _replay(publisher: Publisher, events: EventBatch) -> None:
    replay(publisher, events, speed=None, clock=SystemClock(), stop=threading.Event())
