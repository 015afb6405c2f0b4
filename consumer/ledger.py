"""What was made of whole batches and is not committed yet.

The state of a partition runs ahead of what is committed; the records in between are kept here until their transaction
is. So an aborted transaction takes nothing back: the same records are written again (docs/adr/0007). They go only with
their partition, which its next owner restores from what is committed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consumer.messages import Outgoing
from consumer.position import Mark


@dataclass(slots=True)
class Entry:
    """One partition's records, in order, and where its log stands after them."""

    mark: Mark
    records: list[Outgoing] = field(default_factory=list)


class Ledger:
    """By partition. A batch is in it whole or not at all."""

    def __init__(self) -> None:
        """Nothing is open."""
        self._entries: dict[int, Entry] = {}
        self.records = 0
        self.bytes = 0
        self.changes = 0  # goes up whenever a partition's records go uncommitted

    def __bool__(self) -> bool:
        """Whether something is to be committed."""
        return bool(self._entries)

    def add(self, partition: int, records: Iterable[Outgoing], mark: Mark) -> None:
        """Take in what a batch led to."""
        entry = self._entries.setdefault(partition, Entry(mark))
        before = len(entry.records)
        entry.records.extend(records)
        entry.mark = mark
        self.records += len(entry.records) - before
        self.bytes += sum(record.size for record in entry.records[before:])

    def drop(self, partition: int) -> None:
        """The partition went uncommitted."""
        if self._remove(partition):
            self.changes += 1

    def open(self) -> dict[int, Entry]:
        """What the next transaction holds."""
        return dict(self._entries)

    def settle(self, partitions: Iterable[int]) -> None:
        """These are committed."""
        for partition in partitions:
            self._remove(partition)

    def _remove(self, partition: int) -> bool:
        entry = self._entries.pop(partition, None)
        if entry is None:
            return False
        self.records -= len(entry.records)
        self.bytes -= sum(record.size for record in entry.records)
        return True
