from consumer.ledger import Ledger
from consumer.messages import Outgoing
from consumer.position import Mark


def mark(following: int) -> Mark:
    return Mark(0, following, None, None, None)


def record(size: int) -> Outgoing:
    return Outgoing("topic", b"key", b"x" * size)


def test_batches_add_up_in_order() -> None:
    """A partition's records stay in order, with the mark of the last batch; sizes are those of what is open."""
    ledger = Ledger()
    assert not ledger

    ledger.add(0, [record(1), record(2)], mark(2))
    ledger.add(1, [], mark(9))
    ledger.add(0, [record(3)], mark(3))

    entries = ledger.open()
    assert [r.size for r in entries[0].records] == [1, 2, 3]
    assert (entries[0].mark, entries[1].mark) == (mark(3), mark(9))
    assert (ledger.records, ledger.bytes) == (3, 6)


def test_settled_is_gone_and_dropped_is_noticed() -> None:
    """What is committed leaves without a trace; what goes uncommitted counts as a change, once."""
    ledger = Ledger()
    ledger.add(0, [record(4)], mark(1))
    ledger.add(1, [record(5)], mark(1))

    ledger.settle([0])
    assert (ledger.changes, ledger.records, ledger.bytes) == (0, 1, 5)
    ledger.drop(1)
    ledger.drop(1)

    assert ledger.changes == 1
    assert not ledger
    assert (ledger.records, ledger.bytes) == (0, 0)
