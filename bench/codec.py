"""``bench codec``: framed Avro to columns and back, beside fastavro's one-record functions in a loop.

The loops get their dictionaries ready made, and give dictionaries: what a user does with them besides is not counted.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.measure import interleaved, rate, ratios
from bench.peers import avro
from bench.tables import Report
from bench.workload import START_MS, Offline, events, latest, lengths, server_names, windows
from consumer.encoding import ForecastEncoder, Source, StepEncoder
from models.artifact import Model
from models.partition import DueWindows, Partition
from models.runtime import Quantiles
from models.windows import ClosedSteps
from schemas.batch import EventBatch
from schemas.codec import EventCodec, frame, plain_schema
from schemas.contract import Contract
from schemas.errors import FleetcastError
from schemas.records import forecast_schema, step_schema

_ID, _LOOP = 1, "fastavro loop"
_SERVERS = 100


def run(*, quick: bool) -> Report:
    """Measure.

    Raises:
        FleetcastError: our bytes are not fastavro's.
    """
    _, model = latest()
    contract, rounds = model.contract, 3 if quick else 9
    n_events, n_forecasts = (4_000, 64) if quick else (100_000, 1_024)
    first = START_MS // contract.step_ms
    batch = events(contract, server_names(_SERVERS), first, n_events // _SERVERS // 5, per_step=5)
    report = Report("codec", f"{len(batch)} events, {n_forecasts} forecasts, {rounds} rounds, one thread", quick)
    turns: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {}
    turns |= _events(contract, batch)
    turns |= _outputs(model, batch, n_forecasts)
    for name, (ours, peer) in turns.items():
        found = interleaved({_LOOP: peer, name: ours}, rounds)
        report.figure(f"{name}, {_LOOP}", "records/s", found[_LOOP])
        report.figure(f"{name}, fleetcast", "records/s", found[name])
        goal, aim = _GOALS[name]
        report.goal(f"{name}, fleetcast over the {_LOOP}", "x", ratios(found[name], found[_LOOP]), goal, aim)
    report.notes.append("bytes of both sides are compared: equal")
    return report


_DECODE, _ENCODE, _STEPS, _FORECASTS = "decode events", "encode events", "encode steps", "encode forecasts"
_GOALS: dict[str, tuple[float, float | None]] = {
    _DECODE: (10, 25), _ENCODE: (5, None), _STEPS: (10, None), _FORECASTS: (10, None),
}  # fmt: skip
_Turns = dict[str, tuple[Callable[[], float], Callable[[], float]]]


def _events(contract: Contract, batch: EventBatch) -> _Turns:
    registry = Offline()
    schema_id = registry.schema_id("", contract.schema)
    codec, schema, n = EventCodec(contract, registry), plain_schema(contract.schema), len(batch)
    messages = codec.encode(batch, schema_id)
    read = avro.reading(schema, messages)
    write = avro.writing(schema, read(), frame(schema_id))
    _check(_ENCODE, messages, write())
    decoded, kept, _ = codec.decode(messages)
    if len(kept) != n or decoded.sha256() != batch.sha256():
        raise FleetcastError("decoded events are not those that were encoded")
    return {
        _DECODE: (rate(n, lambda: codec.decode(messages)), rate(n, read)),
        _ENCODE: (rate(n, lambda: codec.encode(batch, schema_id)), rate(n, write)),
    }


def _outputs(model: Model, batch: EventBatch, n_forecasts: int) -> _Turns:
    contract, header = model.contract, frame(_ID)
    closed, keys = _closed(contract, batch)
    steps = StepEncoder(contract, _ID, model.fingerprint)
    of_steps = steps.encode(closed, keys)
    write_steps = _loop(_STEPS, step_schema(contract), of_steps, header)
    due, quantiles, source = _forecasts(contract, closed, n_forecasts)
    forecasts = ForecastEncoder(contract, _ID, model.version, model.fingerprint)
    of_forecasts = forecasts.encode(due, quantiles, source)
    write_forecasts = _loop(_FORECASTS, forecast_schema(), of_forecasts, header)
    return {
        _STEPS: (rate(len(closed), lambda: steps.encode(closed, keys)), rate(len(closed), write_steps)),
        _FORECASTS: (
            rate(n_forecasts, lambda: forecasts.encode(due, quantiles, source)),
            rate(n_forecasts, write_forecasts),
        ),
    }


def _closed(contract: Contract, batch: EventBatch) -> tuple[ClosedSteps, list[str]]:
    """Steps that the events close, and the server of each."""
    partition = Partition(contract)
    parts, _ = partition.advance(batch, np.arange(len(batch)))
    closed = ClosedSteps.concat([closed for closed, _ in parts])
    return closed, [partition.keys[slot] for slot in closed.slot.tolist()]


def _forecasts(contract: Contract, closed: ClosedSteps, n: int) -> tuple[DueWindows, Quantiles, Source]:
    """Forecasts of random numbers, some of which breach."""
    rng, settings = np.random.default_rng(0), contract.settings
    shape = (n, len(contract.targets), len(settings.quantiles), settings.horizon_steps)
    values = np.sort(rng.uniform(20, 95, shape).astype(np.float32), axis=2)
    steps = closed.take(np.arange(n) % len(closed))
    due = DueWindows(steps, server_names(n).tolist(), windows(contract, lengths(contract, n, short=True)))
    step = rng.integers(0, shape[3] + 1, shape[:2])
    quantiles = Quantiles(values, np.ones(n, bool), rng.random(shape[:2], np.float32), step)
    return due, quantiles, Source("server-metrics", 3, np.arange(n) + 1_000_000)


def _loop(what: str, schema: dict[str, Any], messages: list[bytes], header: bytes) -> Callable[[], list[bytes]]:
    """The peer's loop over the same records, seen to give the same bytes."""
    plain = plain_schema(schema)
    write = avro.writing(plain, avro.reading(plain, messages)(), header)
    _check(what, messages, write())
    return write


def _check(what: str, ours: list[bytes], fastavros: list[bytes]) -> None:
    if ours != fastavros:
        raise FleetcastError(f"{what}: the bytes are not fastavro's")
