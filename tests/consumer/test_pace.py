from consumer.pace import Pace


def test_many_forecasts_are_worth_a_round_and_few_wait_until_one_is_due() -> None:
    """A batch without any leads to no round of its own."""
    pace = Pace()

    assert [pace.is_worth_a_round(n, due=False) for n in (0, 1, 99, 100)] == [False, False, False, True]
    assert [pace.is_worth_a_round(n, due=True) for n in (0, 1, 99, 100)] == [False, True, True, True]


def test_a_round_does_not_last_longer_than_seconds() -> None:
    """What is let in goes by how long forecasts took here."""
    pace = Pace()
    assert not pace.is_worth_a_round(2_000, due=True), "nothing is known yet"

    for _ in range(30):
        pace.note(1_000, 1.0)
    assert pace.is_worth_a_round(2_000, due=True)
    for _ in range(30):
        pace.note(1_000, 4.0)
    assert not pace.is_worth_a_round(2_000, due=True)
    pace.note(3, 100.0)
    assert pace.is_worth_a_round(600, due=True), "a slow batch of three says nothing of many"
