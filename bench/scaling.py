"""``bench scaling``: what an event and a forecast cost in fleets of 100 to 100,000 servers, one partition, no Kafka."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from bench import workload
from bench.measure import interleaved, inverse, rate, ratios
from bench.tables import Report
from consumer.core import Core
from consumer.messages import Incoming, Records
from consumer.options import ServiceOptions
from consumer.startup import codecs
from models import artifact
from models.artifact import Model
from models.runtime import Runtime
from models.windows import Windows
from schemas.codec import EventCodec
from schemas.contract import Contract
from schemas.topics import Topics

SIZES, SIZES_QUICK = (100, 1_000, 10_000, 100_000), (100, 1_000)
FLAT = 1.2
_CHUNK = ServiceOptions().poll_records
_PER_STEP = 2  # events of a server in a step


def run(*, quick: bool) -> Report:
    """Measure."""
    folder, model = workload.latest()
    sizes, rounds = (SIZES_QUICK, 2) if quick else (SIZES, 5)
    sample, least = (32, 2_000) if quick else (256, 100_000)
    report = Report(
        "scaling",
        f"forecast: {sample} windows of servers drawn from the fleet, gathered and forecast. event: decoded, windowed, "
        f"its step encoded, {_PER_STEP} a step and server, at least {least:,} events and a whole step of all servers; "
        f"{rounds} rounds",
        quick,
    )
    runtime = model.runtime()
    _add(report, "forecast", {n: _forecasting(model.contract, runtime, n, sample) for n in sizes}, rounds)
    _add(report, "event", {n: _Feed(folder, model.contract, n, least).turn for n in sizes}, rounds)
    return report


def _add(report: Report, what: str, turns: Mapping[int, Callable[[], float]], rounds: int) -> None:
    """Costs by fleet size, and each beside the smallest fleet's."""
    found = interleaved({f"{n:,} servers": turn for n, turn in turns.items()}, rounds)
    costs = {name: tuple(1e6 * each for each in inverse(samples)) for name, samples in found.items()}
    smallest, *others = costs
    for name, samples in costs.items():
        report.figure(f"a {what}, {name}", "us", samples)
    for name in others:
        relative = ratios(costs[name], costs[smallest])
        report.goal(f"a {what}, {name} over {smallest}", "x", relative, FLAT, at_most=True)


def _forecasting(contract: Contract, runtime: Runtime, servers: int, sample: int) -> Callable[[], float]:
    """A turn: windows of servers drawn anew are gathered and forecast."""
    rng, settings = np.random.default_rng(servers), contract.settings
    windows = Windows(contract)
    windows.grow(servers)
    for start in range(0, servers, 4_096):  # random values of the whole fleet at once would take gigabytes
        room = windows._values[start : start + 4_096]
        room[:] = rng.uniform(5, 60, room.shape)
        windows._codes[start : start + 4_096] = 0
    step = np.full(sample, workload.START_MS // contract.step_ms)
    length = np.full(sample, settings.encoder_steps)
    enums = np.zeros((sample, len(contract.enums)), np.int16)

    def forecast() -> None:
        slots = rng.integers(0, servers, sample)
        runtime.forecast(windows.gather(slots, step, length, length, enums))

    forecast()
    return rate(sample, forecast)


class _Feed:
    """A core that takes in the events of a fleet, step after step; none of its forecasts is due."""

    def __init__(self, folder: Path, contract: Contract, servers: int, least: int) -> None:
        """The servers are known and their first step is closed."""
        self._contract = workload.without_forecasts(contract)
        model: Model = artifact.load(folder, self._contract)
        registry = workload.Offline()
        topics = Topics()
        self._core = Core(model, codecs(model, registry.as_registry(), topics), topics)
        self._core.add(0)
        self._codec = EventCodec(self._contract, registry)
        self._schema_id = registry.schema_id(topics.metrics, self._contract.schema)
        self._names, self._offset = workload.server_names(servers), 0
        self._step = workload.START_MS // self._contract.step_ms
        self._steps = max(1, round(least / servers / _PER_STEP))
        self._process(self._records(2))

    def turn(self) -> float:
        """Events a second; making their messages does not count."""
        records = self._records(self._steps)
        return rate(len(records), lambda: self._process(records))()

    def _records(self, steps: int) -> Records:
        batch = workload.events(self._contract, self._names, self._step, steps, _PER_STEP)
        self._step += steps
        values = self._codec.encode(batch, self._schema_id)
        offset = np.arange(self._offset, self._offset + len(values))
        self._offset += len(values)
        appended = np.full(len(values), batch.time[-1])
        return Records(offset, appended, values, values, _never)

    def _process(self, records: Records) -> None:
        for start in range(0, len(records), _CHUNK):
            for _ in self._core.process(0, records.cut(start, start + _CHUNK)).records:
                pass


def _never(_: object) -> Incoming:
    """Records are made whole where they are refused, and none is here."""
    raise AssertionError("an event was refused")
