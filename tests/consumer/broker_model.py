"""A broker in memory, as far as the service can tell: logs, transactions, a group, and accidents.

What Kafka promises is here in the small. A record takes an offset at once and is visible to who reads committed when
the marker of its transaction is written, which takes an offset too and may come late, log by log. Nobody reads past
the first record of an open transaction (the last stable offset). Offsets within a transaction need a member's current
epoch; whose partition it is, the broker does not ask. A producer that starts ends the open transaction of its id.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

if TYPE_CHECKING:
    from tests.consumer.client_model import FakeConsumer, FakeProducer

OFFSETS = ("__consumer_offsets", 0)
Log = tuple[str, int]


class Crash(BaseException):
    """The process is killed here."""


@dataclass
class Transaction:
    """``late``: where its marker is not written yet, once it is decided."""

    producer: str
    state: str = "open"
    logs: set[Log] = field(default_factory=set)
    late: set[Log] = field(default_factory=set)
    offsets: dict[int, tuple[int, str]] = field(default_factory=dict)

    def unresolved(self, log: Log) -> bool:
        return self.state == "open" or log in self.late


@dataclass
class Entry:
    """A record or, without one, a marker."""

    offset: int
    record: Any
    transaction: Transaction | None = None


class Broker:
    """Logs by topic and partition; members by name."""

    def __init__(self) -> None:
        self.logs: dict[Log, list[Entry]] = {}
        self.ends: dict[Log, int] = {}
        self.committed: dict[int, tuple[int, str]] = {}
        self.transactions: list[Transaction] = []
        self.epochs: dict[str, int] = {}
        self.sessions: dict[str, int] = {}  # epoch of a member, by name
        self.wanted: dict[int, str] = {}  # who is to have a partition
        self.owners: dict[int, str] = {}
        self.consumers: dict[str, FakeConsumer] = {}
        self.producers: dict[str, FakeProducer] = {}
        self.dead: set[str] = set()
        self.now = 0.0

    def append(self, log: Log, record: Any, transaction: Transaction | None = None, skip: int = 0) -> int:
        """``skip``: offsets that are taken by something else."""
        offset = self.ends.get(log, 0) + skip
        self.logs.setdefault(log, []).append(Entry(offset, record, transaction))
        self.ends[log] = offset + 1
        if transaction is not None:
            transaction.logs.add(log)
        return offset

    def stable_end(self, log: Log) -> int:
        open_at = [e.offset for e in self.logs.get(log, []) if e.transaction and e.transaction.unresolved(log)]
        return min(open_at, default=self.ends.get(log, 0))

    def visible(self, log: Log, start: int = 0) -> list[Entry]:
        """What is read under read_committed."""
        end = self.stable_end(log)
        found = []
        for entry in self.logs.get(log, []):
            if entry.record is None or not start <= entry.offset < end:
                continue
            if entry.transaction is None or entry.transaction.state == "committed":
                found.append(entry)
        return found

    def decide(self, transaction: Transaction, state: str, late: set[Log]) -> None:
        """Commit or abort; the markers of ``late`` logs come with ``settle``."""
        if transaction.state == "open":
            transaction.state = state
            transaction.late = set(transaction.logs) | {OFFSETS}
            self._mark(transaction, transaction.late - late)

    def settle(self, producer: str | None = None) -> None:
        """Write the markers that are late."""
        for transaction in self.transactions:
            if transaction.state != "open" and producer in (None, transaction.producer):
                self._mark(transaction, set(transaction.late))
        self.transactions = [t for t in self.transactions if t.state == "open" or t.late]

    def expire(self) -> None:
        """Transactions that are open for too long are aborted, and their producers fenced."""
        for transaction in self.transactions:
            if transaction.state == "open":
                self.epochs[transaction.producer] += 1
                self.decide(transaction, "aborted", set())

    def _mark(self, transaction: Transaction, logs: set[Log]) -> None:
        for log in sorted(logs):
            transaction.late.discard(log)
            if log != OFFSETS:
                self.append(log, None)
            elif transaction.state == "committed":
                self.committed.update(transaction.offsets)

    def offset(self, partition: int) -> tuple[int, str] | None:
        """Of a commit.

        Raises:
            KafkaException: a transaction on it is not through.
        """
        if any(partition in t.offsets and t.unresolved(OFFSETS) for t in self.transactions):
            raise problem(KafkaError._TIMED_OUT, retriable=True)
        return self.committed.get(partition)

    def check(self, member: str, epoch: int) -> None:
        if self.sessions.get(member) != epoch:
            raise problem(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True)

    def want(self, partition: int, member: str) -> None:
        """The coordinator wants the member to have it: its owner is told to give it away first."""
        self.wanted[partition] = member
        self.rebalance()

    def rebalance(self) -> None:
        for partition, member in self.wanted.items():
            owner = self.owners.get(partition)
            if owner is not None and owner != member:
                self.consumers[owner].tell("revoke", partition)
            elif owner is None and member in self.sessions:
                self.owners[partition] = member
                self.consumers[member].tell("assign", partition)

    def expel(self, member: str) -> None:
        """Its session is over; it is not told before it asks."""
        if self.sessions.pop(member, None) is None:
            return
        mine = [p for p, owner in self.owners.items() if owner == member]
        others = sorted(self.sessions)
        for partition in mine:
            del self.owners[partition]
        for partition, wanted in list(self.wanted.items()):
            if wanted == member and others:
                self.wanted[partition] = others[partition % len(others)]
        self.consumers[member].events = [("lost", -1)]
        self.rebalance()


def problem(code: int, **kind: bool) -> KafkaException:
    return KafkaException(KafkaError(code, "model", **kind))
