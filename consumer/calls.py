"""Calls of librdkafka that must not take us with them when they do not come back.

``send_offsets_to_transaction`` was seen to wait for ever, past its own time limit, after the broker was killed in the
middle of a transaction (librdkafka 2.16; found by ``make chaos``). A call in a thread of its own can be given up: with
its producer, whose successor fences it.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any


class StuckError(Exception):
    """A call did not come back; what it belongs to is of no more use."""


class Calls:
    """One call after another, in a thread that ends with the process at the latest."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._asked: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._stuck = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def make(self, call: Callable[[], Any], seconds: float) -> None:
        """Make a call.

        Raises:
            StuckError: it did not come back within ``seconds``, or one before it did not.
            BaseException: what the call raised.
        """
        if self._stuck:  # a late answer would be taken for that of another call
            raise StuckError("a call before did not come back")
        self._asked.put(call)
        try:
            raised = self._answers.get(timeout=seconds)
        except queue.Empty:
            self._stuck = True
            raise StuckError(f"no answer within {seconds:g} s") from None
        if raised is not None:
            raise raised

    def close(self, last: Callable[[], Any], seconds: float) -> None:
        """Make a last call and end the thread; wait for both at most ``seconds``."""
        self._asked.put(last)
        self._asked.put(None)
        self._thread.join(seconds)

    def _serve(self) -> None:
        while (call := self._asked.get()) is not None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001  raised again by ``make``
                self._answers.put(error)
            else:
                self._answers.put(None)
