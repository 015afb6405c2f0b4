"""What exactly once costs: the same backlog consumed under both guarantees, turn about, in one run.

``python bench/guarantees.py [--servers 200] [--steps 60] [--rounds 3]``: events a second from the first record read to
the last commit, of a service in this process on a real Apache Kafka. The model is small, so that what is measured is
the stream and not the network.
"""

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from consumer.core import Core
from consumer.options import AT_LEAST_ONCE, EXACTLY_ONCE, ServiceOptions
from consumer.published import StepReader
from consumer.service import Service
from consumer.startup import codecs
from devstack import Stack, start_stack
from models.artifact import Model
from models.samples import History
from producer.publish import Publisher
from schemas.batch import EventBatch
from schemas.codec import EventCodec
from schemas.contract import Contract
from schemas.records import forecast_schema, step_schema
from schemas.registry import Registry
from schemas.topics import Topics, connect, create
from tests.models.conftest import START_MS, events, random_model

_PER_STEP = 5


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=200)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--partitions", type=int, default=4)
    options = parser.parse_args()
    contract = _contract()
    with tempfile.TemporaryDirectory() as folder, start_stack(broker="apache", registry="embedded") as stack:
        model = random_model(contract, History(contract, events(contract, 3, 60)), Path(folder))
        backlog = _backlog(contract, options.servers, options.steps)
        _publish(stack, contract, backlog, options.partitions)
        speeds: dict[str, list[float]] = {EXACTLY_ONCE: [], AT_LEAST_ONCE: []}
        for turn in range(options.rounds):
            for guarantee, found in speeds.items():
                found.append(len(backlog) / _consume(stack, model, guarantee, turn, options.partitions))
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    print(
        f"{len(backlog)} events of {options.servers} servers, {options.partitions} partitions, {options.rounds} rounds"
    )
    for name, found in speeds.items():
        print(f"{name:14s} {medians[name]:9,.0f} events/s (from {min(found):,.0f} to {max(found):,.0f})")
    print(f"exactly once costs {100 * (1 - medians[EXACTLY_ONCE] / medians[AT_LEAST_ONCE]):.1f} % of the events/s")


def _contract() -> Contract:
    schema = dict(Contract.load().schema)
    small = {"encoder_steps": 24, "min_encoder_steps": 12, "horizon_steps": 12}
    schema["fleetcast"] = {**schema["fleetcast"], **small}
    return Contract(schema)


def _backlog(contract: Contract, servers: int, steps: int) -> EventBatch:
    rng = np.random.default_rng(0)
    n = servers * steps * _PER_STEP
    batch = EventBatch.allocate(contract, n)
    batch.keys[:] = [f"s{i % servers:04d}" for i in range(n)]
    batch.time[:] = START_MS + (np.arange(n) // servers) * (contract.step_ms // _PER_STEP)
    batch.reals[:] = rng.uniform(5, 60, batch.reals.shape)
    batch.enums[:] = 1
    return batch


def _topics(name: str) -> Topics:
    return Topics("metrics", f"{name}.steps", f"{name}.forecasts", f"{name}.scores", f"{name}.dlq")


def _publish(stack: Stack, contract: Contract, backlog: EventBatch, partitions: int) -> None:
    kafka, registry, topics = {"bootstrap.servers": stack.bootstrap_servers}, Registry(stack.registry_url), _topics("x")
    create(connect(kafka), topics, partitions)
    schema_id = registry.register(topics.metrics, contract.schema)
    with Publisher(kafka, topics.metrics, EventCodec(contract, registry), schema_id) as publisher:
        publisher.publish(backlog)
        publisher.flush()


def _consume(stack: Stack, model: Model, guarantee: str, turn: int, partitions: int) -> float:
    """Seconds from the first record to the last commit."""
    kafka, registry = {"bootstrap.servers": stack.bootstrap_servers}, Registry(stack.registry_url)
    topics = _topics(f"{guarantee}{turn}")
    create(connect(kafka), topics, partitions)
    registry.register(topics.steps, step_schema(model.contract))
    registry.register(topics.forecasts, forecast_schema())
    group = f"{guarantee}{turn}"
    core = Core(model, codecs(model, registry, topics), topics, group)
    service = Service(
        core, kafka=kafka, topics=topics, stop=threading.Event(),
        options=ServiceOptions(group_id=group, guarantee=guarantee, until_idle_seconds=0.5),
        reader=StepReader(model.contract, model.fingerprint, registry),
    )  # fmt: skip
    began = ended = 0.0
    while not service._idle():
        events_before, open_before = core.counts.events, bool(service._ledger)
        service._turn()
        if core.counts.events != events_before:
            began = began or time.perf_counter()
        if open_before and not service._ledger:
            ended = time.perf_counter()
    service._stop.set()
    service.run()
    return ended - began


if __name__ == "__main__":
    main()
