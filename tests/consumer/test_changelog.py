from hypothesis import given
from hypothesis import strategies as st

from consumer.changelog import Changelog


@given(
    commits=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40),
    window=st.integers(0, 6),
    asked=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_no_step_that_is_needed_lies_before_the_start(
    commits: list[tuple[int, int]], window: int, asked: list[bool]
) -> None:
    """Whatever is written and however often it is asked: every needed step is read, and the start moves forward."""
    changelog, log, closed, start = Changelog(), [], 0, 0
    for (steps, records), ask in zip(commits, asked, strict=False):
        closed += steps
        log += [max(closed - 1 - i % 3, 0) for i in range(records if closed else 0)]  # held ones come late
        changelog.note(closed, len(log))
        if ask:
            found = changelog.start_for(closed - window)
            assert found >= start
            start = found
            assert all(step < closed - window for step in log[:start])


def test_the_start_comes_near_the_window() -> None:
    """What no window needs any more is not read again: the bound is as good as the commits are frequent."""
    changelog = Changelog()
    for closed in range(100):
        changelog.note(closed, 10 * closed)

    assert changelog.start_for(90) == 900


def test_a_restored_one_begins_where_it_was() -> None:
    """Until something is known of its records, the committed bound stands."""
    assert Changelog(start=5, end=9).start_for(10**6) == 5
