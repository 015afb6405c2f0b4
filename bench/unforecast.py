"""Part of ``bench stream``: events a second from Kafka to Kafka where no forecast is due, beside Quix Streams."""

import itertools
import math
import shutil

import fastavro

from bench.measure import interleaved, ratios
from bench.peers import quix
from bench.processes import running
from bench.rates import appended_a_second
from bench.scene import Scene
from bench.tables import Report
from bench.workload import latest
from schemas.codec import plain_schema, read_value, split
from schemas.errors import FleetcastError
from schemas.records import step_schema
from schemas.topics import Topics

INTERVAL_S = 60  # between two samples of a server
_EXACTLY, _AT_LEAST, _QUIX = "exactly once", "at least once", "Quix Streams, exactly once"
_QUIX_SECONDS, _QUIX_SECONDS_QUICK = 40.0, 10.0
_MOST_SECONDS = 600.0
_COMPARED = 1_000


def measure(at: Scene, topics: Topics, partitions: int, rounds: int, report: Report, *, quick: bool) -> None:
    """The events of ``topics.metrics`` decoded, windowed, and their steps written: turn about with the peer.

    The unit is events: each step of a server that came out stands for the samples that a step takes.
    """
    model, _ = latest()
    a_step = at.contract.settings.step_seconds / INTERVAL_S
    turn = itertools.count()
    made: dict[str, str] = {}  # the steps' topic and the peer's, of the last round

    def ours(guarantee: str) -> float:
        mine = at.topics(f"steps{next(turn)}", partitions, topics.metrics)
        with at.consume(mine, model, "--until-idle", "1", "--processing-guarantee", guarantee) as (process, _):
            process.wait(_MOST_SECONDS)
        made["steps"] = mine.steps
        return a_step * appended_a_second(at.append_times(mine.steps))

    def peer() -> float:
        job = _job(at, topics.metrics, f"quix{next(turn)}")
        at.topic(job.target, partitions)
        with running(job.command(), at.folder / f"{job.group}.log", "bench.peers.quix") as process:
            process.wait_at_most(_QUIX_SECONDS_QUICK if quick else _QUIX_SECONDS)
        shutil.rmtree(job.state, ignore_errors=True)
        _check_equal(at, made["steps"], job)
        return a_step * appended_a_second(at.append_times(job.target))

    turns = {_EXACTLY: lambda: ours("exactly_once"), _AT_LEAST: lambda: ours("at_least_once")}
    if quix.installed():
        turns[_QUIX] = peer
    else:
        report.notes.append("Quix Streams is not installed (see docs of `make bench`): its row is left out")
    found = interleaved(turns, rounds)
    for name, samples in found.items():
        report.figure(f"Kafka to Kafka without forecasts, {name}", "events/s", samples)
    report.figure("exactly once over at least once", "x", ratios(found[_EXACTLY], found[_AT_LEAST]))
    if _QUIX in found:
        report.goal("Kafka to Kafka over Quix Streams", "x", ratios(found[_EXACTLY], found[_QUIX]), 5, 10)
        report.notes.append(
            "Quix Streams makes means, counts and last symbols of the same fields in the same windows, and they are "
            f"equal; where the backlog takes it longer than {_QUIX_SECONDS:g} s, its speed is that of what it committed"
        )


def _check_equal(at: Scene, steps: str, job: quix.Job) -> None:
    """See that the peer's first windows are our steps: it does the same job.

    Raises:
        FleetcastError: they are not.
    """
    contract = at.contract
    some = list(itertools.islice(at.records(job.target), _COMPARED))
    rows = job.windows(_bytes(message.value()) for message in some)
    left = {(_bytes(m.key()).decode(), row["start"]): row for m, row in zip(some, rows, strict=True)}
    schema = fastavro.parse_schema(plain_schema(step_schema(contract)))
    for message in at.records(steps):
        if not left:
            return
        ours = read_value(split(_bytes(message.value()))[1], schema)
        row = left.pop((ours["server_id"], ours["step_start"]), None)
        if row is not None and not _same(row, ours, [f.name for f in contract.reals + contract.enums]):
            raise FleetcastError(f"Quix Streams and the service differ: {row} is not {ours}")
    if left:
        raise FleetcastError(f"Quix Streams has windows that the service has not, the first of {min(left)}")


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _same(theirs: quix.Row, ours: quix.Row, names: list[str]) -> bool:
    def close(a: object, b: object) -> bool:
        return math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b

    return all(close(theirs[name], ours[name]) for name in ("count", *names))


def _job(at: Scene, source: str, name: str) -> quix.Job:
    contract = at.contract
    return quix.Job(
        bootstrap_servers=at.stack.bootstrap_servers, registry_url=at.stack.registry_url, group=name, source=source,
        target=f"{name}.windows", state=str(at.folder / name), time=contract.time.name,
        reals=[f.name for f in contract.reals], enums=[f.name for f in contract.enums], step_ms=contract.step_ms,
        grace_ms=round(contract.settings.allowed_lateness_seconds * 1000),
    )  # fmt: skip
