"""The whole service on a broker in memory, with every accident at every point: what is published is that of one pass.

Only librdkafka is modelled (``broker_model``); inbox, core, ledger, delivery, restoring and the network are the real
ones.
"""

import contextlib
import functools
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pytest
from confluent_kafka import KafkaError
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from consumer.core import Codecs, Core
from consumer.encoding import ForecastEncoder, StepEncoder
from consumer.messages import Incoming, Outgoing, Records
from consumer.options import AT_LEAST_ONCE, EXACTLY_ONCE, ServiceOptions
from consumer.position import parse
from consumer.published import StepReader
from consumer.service import Service
from models.artifact import Model
from models.samples import History
from schemas.batch import EventBatch
from schemas.codec import EventCodec
from schemas.contract import Contract
from schemas.errors import UnreachableError
from schemas.records import forecast_schema, step_schema
from schemas.topics import Topics
from tests import contracts
from tests.consumer.broker_model import OFFSETS, Broker, Crash, Log, problem
from tests.consumer.client_model import DirectCalls, FakeConsumer, FakeProducer
from tests.consumer.comparison import compare_forecasts, letters_of, same, source, steps
from tests.models.conftest import events, random_model

TOPICS = Topics()
OUT = (TOPICS.steps, TOPICS.forecasts, TOPICS.dlq)
START_MS = 1_700_000_000_000
PARTITIONS, MEMBERS = (0, 1), ("one", "two")
CONTRACT = Contract(
    contracts.schema(
        contracts.field("load", "double", "target", minimum=0),
        contracts.field("queue", ["null", "double"], "covariate"),
        contracts.field("state", contracts.enum("State", "up", "down", "busy"), "category"),
        contracts.field("temperature", ["null", "float"], "context"),
        encoder_steps=4, min_encoder_steps=2, horizon_steps=2, forecast_every_steps=3,
    )
)  # fmt: skip
EVENT_ID, OTHER_EVENT_ID, STEP_ID, FORECAST_ID = 1, 2, 3, 4
SCHEMAS = {
    EVENT_ID: CONTRACT.schema, OTHER_EVENT_ID: CONTRACT.schema, STEP_ID: step_schema(CONTRACT),
    FORECAST_ID: forecast_schema(),
}  # fmt: skip
NAMES, SEEDS = st.sampled_from(MEMBERS), st.integers(0, 2**32 - 1)
LOGS = st.sampled_from([OFFSETS, *((topic, p) for topic in OUT for p in PARTITIONS)])
ACCIDENTS = st.dictionaries(
    st.sampled_from(["init", "begin", "produce", "flush", "send", "sent", "commit", "committed", "abort"]),
    st.sampled_from(
        ["abort", "broken", "again", "crash", "away", "expire", "expelled", "expelled and told", "moved",
         "moved and told", "other"]
    ),
    max_size=2,
)  # fmt: skip


class Schemas:
    """A registry that may be away; what one asked for is kept."""

    def __init__(self, away: Callable[[], bool] = lambda: False) -> None:
        self._away, self._kept = away, set[int]()

    def writer_schema(self, schema_id: int) -> dict[str, Any] | None:
        if schema_id not in self._kept and self._away():
            raise UnreachableError("away")
        self._kept.add(schema_id)
        return SCHEMAS.get(schema_id)


def new_core(model: Model, schemas: Schemas) -> Core:
    codecs = Codecs(
        EventCodec(CONTRACT, schemas),
        StepEncoder(CONTRACT, STEP_ID, model.fingerprint),
        ForecastEncoder(CONTRACT, FORECAST_ID, model.version, model.fingerprint),
    )
    return Core(model, codecs, TOPICS)


@functools.cache
def tiny_model(folder: Path) -> Model:
    return random_model(CONTRACT, History(CONTRACT, events(CONTRACT, servers=3, steps=40)), folder)


class Life:
    """One member, as long as it lives."""

    def __init__(self, name: str, broker: Broker, model: Model, guarantee: str, away: Callable[[], bool]) -> None:
        schemas = Schemas(away)
        self.broker, self.tick = broker, 0.0
        self.service = Service(
            new_core(model, schemas),
            kafka={"client.id": name},
            topics=TOPICS,
            options=ServiceOptions(
                guarantee=guarantee, instance_id=name, commit_bytes=2_000 if name == "one" else 1 << 24
            ),
            reader=StepReader(CONTRACT, model.fingerprint, schemas),
            stop=threading.Event(),
            clock=self._clock,
        )
        self.consumer, self.producer = broker.consumers[name], broker.producers[name]

    def _clock(self) -> float:
        self.broker.now += self.tick
        return self.broker.now

    def turn(self, allowance: int | None, *, commit: bool, slow: bool = False) -> None:
        self.broker.now += 1.5 * commit
        self.tick = 0.6 * slow
        self.consumer.allowance = allowance
        self.service._restorer._retry_at = 0.0
        self.service._turn()


class Protocol(RuleBasedStateMachine):
    """Two members, two partitions, and whatever may happen to them."""

    guarantee = EXACTLY_ONCE
    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_model(self.folder)
        self.broker = Broker()
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(patch("consumer.delivery.Calls", DirectCalls))
        for place, fake in (
            ("inbox.Consumer", FakeConsumer),
            ("restore.Consumer", FakeConsumer),
            ("outbox.Producer", FakeProducer),
        ):
            self.patches.enter_context(patch(f"consumer.{place}", functools.partial(fake, self.broker)))
        self.patches.enter_context(patch("consumer.restore._SLICE_RECORDS", 7))
        self.patches.enter_context(patch("consumer.restore._SLICE_CALLS", 2))
        self.patches.enter_context(patch("consumer.core._RUN_WINDOWS", 2))  # of three servers a partition
        self.unanswered = 0
        self.wiped = self.failed = False
        self.busy: list[str] = []  # who is in the middle of something
        self.times = dict.fromkeys(PARTITIONS, START_MS)
        self.inputs: dict[int, list[Incoming]] = {p: [] for p in PARTITIONS}
        self.lives: dict[str, Life] = {}
        for partition, name in zip(PARTITIONS, MEMBERS, strict=True):
            self._start(name)
            self.broker.want(partition, name)

    # What happens in the world.

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        for partition in PARTITIONS:
            self.produce(partition, 30, seed, 15_000)

    def produce(self, partition: int, n: int, seed: int, pace: int) -> None:
        """Mostly forward in time, with disorder, late, refused and damaged ones, gaps, and holes in the offsets."""
        rng = np.random.default_rng(seed)
        batch = EventBatch.allocate(CONTRACT, n)
        batch.keys[:] = [f"{key}{partition}" for key in rng.choice(["a", "b", "c"], n)]
        forward = self.times[partition] + np.cumsum(rng.choice([0, 1, 1, 1, 8, 20], n) * rng.integers(0, pace, n))
        self.times[partition] = int(forward[-1])
        batch.time[:] = forward + rng.choice([0, 0, -1, 1], n) * rng.integers(0, 30_000, n)
        batch.reals[:] = rng.normal(50, 10, batch.reals.shape)
        batch.reals[rng.random(n) < 0.05, 0] = -1  # refused
        for column in (1, 2):
            batch.reals[rng.random(n) < 0.5, column] = np.nan
        batch.enums[:] = rng.integers(0, 3, batch.enums.shape)
        record_time = np.maximum.accumulate(forward - rng.integers(-2_000, 15_000, n))
        values: list[bytes | None] = [*EventCodec(CONTRACT, Schemas()).encode(batch, EVENT_ID)]
        for row, (kind, skip) in enumerate(zip(rng.random(n), rng.choice([0, 0, 0, 1, 3], n), strict=True)):
            value = values[row]
            if kind < 0.04:
                value = rng.choice(np.array([None, b"", b"\0\0\0\0\7x", (value or b"")[:-2]], object))
            elif kind < 0.1 and value is not None:
                value = value[:4] + bytes([OTHER_EVENT_ID]) + value[5:]
            log = (TOPICS.metrics, partition)
            record = Incoming(self.broker.ends.get(log, 0) + int(skip), int(record_time[row]), b"k", value)
            self.broker.append(log, record, skip=int(skip))
            self.inputs[partition].append(record)

    @rule(name=NAMES, partition=st.sampled_from(PARTITIONS), n=st.integers(1, 30), seed=SEEDS,
          pace=st.sampled_from([500, 4_000, 15_000]), allowance=st.integers(0, 40), commit=st.booleans(),
          slow=st.booleans(), accidents=ACCIDENTS, after=st.integers(0, 20), late=st.sets(LOGS),
          leaving=st.sampled_from([None, None, *PARTITIONS]))  # fmt: skip
    def turn(  # noqa: PLR0917  hypothesis names them
        self, name: str, partition: int, n: int, seed: int, pace: int, allowance: int, *, commit: bool, slow: bool,
        accidents: dict[str, str], after: int, late: set[Log],
        leaving: int | None,
    ) -> None:  # fmt: skip
        """Events come, and a member has its turn; while it writes there may be accidents, and markers are late."""
        self.produce(partition, n, seed, pace)
        if leaving is not None:
            self.broker.want(leaving, next(m for m in MEMBERS if m != name))
        life = self._life(name)
        life.producer.late, life.producer.after = late, after
        life.producer.accidents = {
            point: functools.partial(self._accident, name, point, what) for point, what in accidents.items()
        }
        self._run(name, lambda: life.turn(allowance, commit=commit, slow=slow))
        self.broker.producers[name].accidents = {}

    @rule(name=NAMES, allowance=st.integers(1, 200))
    def calm(self, name: str, allowance: int) -> None:
        """Some turns in peace."""
        for _ in range(3):
            self._run(name, lambda: self._life(name).turn(allowance, commit=True))

    @rule(name=NAMES, what=st.sampled_from(["dies", "has to start over", "is expelled", "moves", "markers", "expire"]),
          deaf=st.integers(0, 4), partition=st.sampled_from(PARTITIONS))  # fmt: skip
    def trouble(self, name: str, what: str, deaf: int, partition: int) -> None:
        """Between two turns. ``deaf``: an expelled member goes on for so many polls without knowing."""
        if what == "dies":
            self._bury(name)
        elif what == "has to start over":
            self._life(name).service._broken = True
        elif what == "is expelled":
            self._life(name).consumer.deaf = deaf
            self.broker.expel(name)
        elif what == "moves":
            self.broker.want(partition, name)
        elif what == "markers":
            self.broker.settle()
        else:
            self.broker.expire()

    @rule(times=st.integers(1, 5))
    def registry_away(self, times: int) -> None:
        """It does not answer so many questions."""
        self.unanswered = times

    @precondition(lambda self: self.broker.committed and self.guarantee == EXACTLY_ONCE)
    @rule(partition=st.sampled_from(PARTITIONS), name=NAMES)
    def wipe(self, partition: int, name: str) -> None:
        """Someone sets the offset by hand, where it is: all members are down for that, and the metadata are gone."""
        for member in MEMBERS:
            self._bury(member)
        self.broker.expire()
        self.broker.settle()
        if partition in self.broker.committed:
            self.broker.committed[partition] = (self.broker.committed[partition][0], "")
            self.wiped = True
        self.broker.want(partition, name)

    # How it ends.

    def check(self) -> None:
        """Finish everything in peace, and compare with one pass."""
        self.unanswered = 0
        self.broker.expire()
        self.broker.settle()
        for partition, name in zip(PARTITIONS, MEMBERS, strict=True):
            self._life(name).consumer.deaf = 0
            self.broker.want(partition, name)
        for _ in range(200):
            for name in MEMBERS:
                self._life(name).producer.late = set()
                self._life(name).turn(None, commit=True)
            self.broker.settle()
            if all(self._is_done(p) for p in PARTITIONS):
                break
        else:
            pytest.fail("it does not come to an end")
        self._compare()

    def _is_done(self, partition: int) -> bool:
        end = self.broker.ends.get((TOPICS.metrics, partition), 0)
        position = parse(*self.broker.committed.get(partition, (0, None)))
        return not end or (position is not None and position.next_offset == end)

    def _compare(self) -> None:
        expected: list[Outgoing] = []
        for partition, records in self.inputs.items():
            core = new_core(self.model, Schemas())
            core.add(partition)
            expected += core.process(partition, Records.of(records)).records
        found = [e.record for topic in OUT for p in PARTITIONS for e in self.broker.visible((topic, p))]
        same(self._counted(steps(found)), self._counted(steps(expected)))
        once = not self.wiped and self.guarantee == EXACTLY_ONCE
        letters = Counter(letters_of(found)), Counter(letters_of(expected))
        assert letters[0] == letters[1] if once else letters[0].keys() == letters[1].keys()
        compare_forecasts(found, expected, once=self.guarantee == EXACTLY_ONCE)
        if self.guarantee == EXACTLY_ONCE:
            for partition in PARTITIONS:
                sources = [source(e.record) for e in self.broker.visible((TOPICS.steps, partition))]
                assert sources == sorted(sources), "steps stand in the order of their closing"

    def _counted(self, values: list[Any]) -> Counter:
        return Counter(values) if self.guarantee == EXACTLY_ONCE else Counter(set(values))

    def teardown(self) -> None:
        with self.patches:
            if not self.failed:
                self.check()

    # How it is done.

    def _start(self, name: str) -> None:
        self.broker.dead.discard(name)
        self.lives[name] = Life(name, self.broker, self.model, self.guarantee, self._is_away)

    def _is_away(self) -> bool:
        self.unanswered -= 1
        return self.unanswered >= 0

    def _life(self, name: str) -> Life:
        if name not in self.lives:
            self._start(name)
        life = self.lives[name]
        life.producer = self.broker.producers[name]
        return life

    def _bury(self, name: str) -> None:
        self.broker.dead.add(name)
        self.lives.pop(name, None)
        self.broker.expel(name)

    def _run(self, name: str, action: Callable[[], None]) -> None:
        self.busy.append(name)
        try:
            action()
        except Crash:
            self._bury(name)
        except BaseException:
            self.failed = True
            raise
        finally:
            self.busy.pop()

    def _accident(self, name: str, point: str, what: str, producer: FakeProducer) -> None:
        other = next(m for m in MEMBERS if m != name)
        if what == "crash" or (what == "broken" and self.guarantee == AT_LEAST_ONCE):
            self.broker.dead.add(name)
            raise Crash
        if what == "away":
            producer.away_until = self.broker.now + 14
        elif what == "expire":
            self.broker.expire()
        elif what.startswith("expelled"):
            self.broker.expel(name)
        elif what.startswith("moved"):
            for partition in PARTITIONS:
                self.broker.want(partition, other)
        if what in ("other", "expelled") and other not in self.busy:
            for _ in range(3):
                self._run(other, lambda: self._life(other).turn(20, commit=True))
        self._answer(point, what, producer)

    def _answer(self, point: str, what: str, producer: FakeProducer) -> None:
        """What librdkafka says to the call in which it happened."""
        wait = what in ("again", "abort") or what.endswith("told")
        if point == "produce" and wait and (what != "abort" or self.guarantee == AT_LEAST_ONCE):
            raise BufferError
        if what == "abort" and point not in ("init", "begin", "committed", "abort"):
            raise problem(KafkaError._STATE, txn_requires_abort=True)
        if what == "broken":
            producer.broken = True
            raise problem(KafkaError._FATAL, fatal=True)
        if wait:
            raise problem(KafkaError._TIMED_OUT, retriable=True)


class AtLeastOnceProtocol(Protocol):
    guarantee = AT_LEAST_ONCE
