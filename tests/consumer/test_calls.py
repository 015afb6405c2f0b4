import threading

import pytest

from consumer.calls import Calls, StuckError


def test_what_a_call_raises_comes_out() -> None:
    """Calls are made in order in another thread; their exceptions are the caller's."""
    calls, made = Calls("test"), []

    calls.make(lambda: made.append(threading.current_thread().name), 5)
    with pytest.raises(ZeroDivisionError):
        calls.make(lambda: 1 / 0, 5)
    calls.make(lambda: made.append("after"), 5)

    assert made == ["test", "after"]


def test_a_call_that_does_not_come_back_is_given_up() -> None:
    """Whoever asked goes on after the time; the thread does not keep the process alive."""
    calls, release = Calls("stuck"), threading.Event()

    with pytest.raises(StuckError, match=r"within 0\.01 s"):
        calls.make(release.wait, 0.01)

    thread = next(t for t in threading.enumerate() if t.name == "stuck")
    assert thread.daemon
    with pytest.raises(StuckError, match="before"):
        calls.make(lambda: None, 5)
    closed: list[bool] = []
    release.set()
    calls.close(lambda: closed.append(True), 5)
    assert closed
    assert not thread.is_alive()
