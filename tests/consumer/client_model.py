"""Consumers and producers of the broker in memory (``broker_model``), as librdkafka's behave, and their accidents."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from consumer.messages import Outgoing
from tests.consumer.broker_model import Broker, Crash, Log, Transaction, problem

STEPS, INPUT = "server-metrics.steps", "server-metrics"


class FakeMessage:
    """A record read, or the news that there are no more."""

    def __init__(self, partition: int, offset: int, record: Any) -> None:
        self._partition, self._offset, self._record = partition, offset, record

    def error(self) -> KafkaError | None:
        return KafkaError(KafkaError._PARTITION_EOF) if self._record is None else None

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 2, self._record.timestamp_ms

    def __getattr__(self, name: str) -> Callable[[], Any]:  # key, value, headers
        return lambda: getattr(self._record, name)


class FakeConsumer:
    """One of the two consumers of a member: that of the input is in the group, that of the steps is not.

    Attributes:
        allowance: records that may still be handed out; None for as many as are asked for.
        deaf: polls until what the coordinator says is heard.
    """

    def __init__(self, broker: Broker, settings: dict[str, Any], logger: object = None) -> None:  # noqa: ARG002
        self._broker, self._member = broker, settings["client.id"]
        self._topic = STEPS
        self._positions: dict[int, int] = {}
        self._told_end: dict[int, int] = {}
        self._paused: set[int] = set()
        self._epoch = -1
        self.events: list[tuple[str, int]] = []
        self.allowance: int | None = None
        self.deaf = 0

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self._topic = topics[0]
        self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}
        self._broker.consumers[self._member] = self
        self._join()

    def tell(self, what: str, partition: int) -> None:
        if (what, partition) not in self.events:
            self.events.append((what, partition))

    def poll(self, _timeout: float) -> FakeMessage | None:
        if self._topic == INPUT:
            self._listen()
        return next(iter(self.consume(1, 0)), None)

    def consume(self, limit: int, _timeout: float) -> list[FakeMessage]:
        found: list[FakeMessage] = []
        for partition in sorted(self._positions.keys() - self._paused):
            log = (self._topic, partition)
            for entry in self._broker.visible(log, self._positions[partition]):
                if len(found) == limit or self.allowance == 0:
                    return found
                found.append(FakeMessage(partition, entry.offset, entry.record))
                self._positions[partition] = entry.offset + 1
                if self.allowance is not None:
                    self.allowance -= 1
            end = self._broker.stable_end(log)
            if len(found) < limit and self._told_end.get(partition) != end:
                self._told_end[partition] = end
                self._positions[partition] = max(end, self._positions[partition])
                found.append(FakeMessage(partition, end, None))
        return found

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            assert p.partition not in self._positions
            self._positions[p.partition] = max(p.offset, 0)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            del self._positions[p.partition]
            self._told_end.pop(p.partition, None)

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._paused |= {p.partition for p in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._paused -= {p.partition for p in partitions}

    def seek(self, at: TopicPartition) -> None:
        if at.partition not in self._positions:
            raise problem(KafkaError._STATE)
        self._positions[at.partition] = 0 if at.offset == OFFSET_BEGINNING else at.offset
        self._told_end.pop(at.partition, None)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:  # noqa: ARG002
        found = []
        for p in partitions:
            offset, metadata = self._broker.offset(p.partition) or (-1001, "")
            found.append(TopicPartition(p.topic, p.partition, offset, metadata=metadata))
        return found

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> None:  # noqa: ARG002
        producer = self._broker.producers[self._member]
        producer.at("commit")
        self._broker.check(self._member, self._epoch)
        self._broker.committed.update({p.partition: (p.offset, p.metadata) for p in offsets})
        producer.at("committed")

    def consumer_group_metadata(self) -> tuple[str, int]:
        return self._member, self._epoch

    def memberid(self) -> str:
        return self._member

    def close(self) -> None:
        self._positions = {}

    def _join(self) -> None:
        self._epoch += 1
        self._epoch = self._broker.sessions[self._member] = max(self._epoch, self._broker.epochs.get("members", 0))
        self._broker.epochs["members"] = self._epoch + 1
        self._broker.rebalance()

    def _listen(self) -> None:
        if self.deaf:
            self.deaf -= 1
            return
        while self.events:
            what, partition = self.events.pop(0)
            gone = sorted(self._positions) if what == "lost" else [partition]
            self._tell(what, [p for p in gone if (p in self._positions) != (what == "assign")])
            if self._member in self._broker.dead:
                raise Crash
            if what == "lost":
                self._join()
            elif what == "revoke" and self._broker.owners.get(partition) == self._member:
                del self._broker.owners[partition]
                self._broker.rebalance()

    def _tell(self, what: str, partitions: list[int]) -> None:
        at = [TopicPartition(self._topic, p, 0) for p in partitions]
        if not at:
            return
        self._callbacks[what](self, at)
        if what == "assign":
            self.incremental_assign(at)
        else:
            if what == "revoke":  # librdkafka keeps a pause over a loss
                self._paused -= set(partitions)
            self.incremental_unassign(at)


class FakeProducer:
    """Transactional where it has an id.

    Attributes:
        accidents: what happens at a point of a round, once each; ``after``: so many records were written.
        late: logs whose markers are not written with the decision.
    """

    def __init__(self, broker: Broker, settings: dict[str, Any], logger: object = None) -> None:  # noqa: ARG002
        self._broker, self._member = broker, settings["client.id"]
        self._id: str | None = settings.get("transactional.id")
        self._transaction: Transaction | None = None
        self._deliveries: list[Callable[..., None]] = []
        former = broker.producers.get(self._member)
        self.accidents: dict[str, Callable[[FakeProducer], None]] = {} if former is None else former.accidents
        self.late: set[Log] = set()
        self.away_until = 0.0
        self.broken = False
        self.after = 0
        self._epoch = -1
        broker.producers[self._member] = self

    def at(self, point: str) -> None:
        if self._member in self._broker.dead:
            raise Crash
        self.after -= point == "produce"
        if point in self.accidents and (point != "produce" or self.after < 0):
            self.accidents.pop(point)(self)
        if self._broker.now < self.away_until and point != "produce":
            self._broker.now += 5
            raise problem(KafkaError._TIMED_OUT, retriable=True)
        if self.broken:
            raise problem(KafkaError._FATAL, fatal=True)
        if self._id is not None and self._epoch != self._broker.epochs[self._id]:
            raise problem(KafkaError._FENCED, fatal=True)

    def init_transactions(self, _timeout: float) -> None:
        assert self._id is not None
        if "init" in self.accidents:
            self.accidents.pop("init")(self)
        for transaction in self._broker.transactions:
            if transaction.producer == self._id:
                self._broker.decide(transaction, "aborted", set())
        self._broker.settle(self._id)
        self._epoch = self._broker.epochs[self._id] = self._broker.epochs.get(self._id, 0) + 1

    def begin_transaction(self) -> None:
        assert self._id is not None
        self.at("begin")
        if self._transaction is not None:
            raise problem(KafkaError._STATE)
        self._broker.settle(self._id)  # a broker has the next transaction wait for the markers of the last one
        self._transaction = Transaction(self._id)
        self._broker.transactions.append(self._transaction)

    def produce(self, topic: str, *, value: Any, key: Any, partition: int, headers: Any, on_delivery: Any) -> None:
        self.at("produce")
        record = Outgoing(topic, key, value, headers, max(partition, 0))
        offset = self._broker.append((topic, max(partition, 0)), record, self._transaction)
        message = _Delivered(topic, record.partition or 0, offset)
        self._deliveries.append(lambda error=None: on_delivery(error, message))

    def flush(self, timeout: float) -> int:
        """The accident of a flush is that what was written is not delivered: now, or at all."""
        try:
            self.at("flush")
        except KafkaException as failure:
            if failure.args[0].retriable():
                self._broker.now += timeout
                return 1
            self._deliveries = [functools.partial(d, failure.args[0]) for d in self._deliveries]
        for deliver in self._deliveries:
            deliver()
        self._deliveries = []
        return 0

    def send_offsets_to_transaction(
        self, offsets: list[TopicPartition], group: tuple[str, int], _timeout: float
    ) -> None:
        self.at("send")
        assert self._transaction is not None
        self._broker.check(*group)
        self._transaction.offsets = {p.partition: (p.offset, p.metadata) for p in offsets}
        self.at("sent")

    def commit_transaction(self, _timeout: float) -> None:
        self.at("commit")
        assert self._transaction is not None
        self._broker.decide(self._transaction, "committed", self.late)
        self.at("committed")
        self._transaction = None

    def abort_transaction(self, _timeout: float) -> None:
        self.at("abort")
        assert self._transaction is not None
        self._broker.decide(self._transaction, "aborted", self.late)
        self._transaction, self._deliveries = None, []

    def poll(self, _timeout: float) -> int:
        return 0

    def purge(self) -> None:
        self._deliveries = []

    def close(self) -> None:
        pass


class DirectCalls:
    """Makes the producer's calls at once: none is stuck here."""

    def __init__(self, name: str) -> None:
        pass

    def make(self, call: Callable[[], Any], _seconds: float) -> None:
        call()

    def close(self, last: Callable[[], Any], _seconds: float) -> None:
        last()


@dataclass(frozen=True)
class _Delivered:
    _topic: str
    _partition: int
    _offset: int

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset
