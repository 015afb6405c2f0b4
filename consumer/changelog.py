"""Which part of a steps' partition the windows can be restored from.

Steps are published in the order of their closing, and a step that is closed is never published again. So all records
before an offset at which step ``s`` was the first open one are of steps before ``s``: where no window needs those, a
restart may begin at that offset. That is a lower bound; what is read too much is older than the windows.
"""

from collections import deque

from consumer.position import Mark, Position


class Changelog:
    """One partition of the steps' topic, as its one writer knows it."""

    def __init__(self, start: int = 0, end: int = 0) -> None:
        """``start``: an offset from which windows can be restored. ``end``: of what was committed."""
        self.end = end
        self._start = start
        self._bounds: deque[tuple[int, int]] = deque()  # (closed_before, offset), both ascending

    def note(self, closed_before: int, offset: int) -> None:
        """All records before ``offset`` are of steps before ``closed_before``."""
        if not self._bounds or closed_before > self._bounds[-1][0]:
            self._bounds.append((closed_before, offset))

    def start_for(self, oldest_needed_step: int) -> int:
        """The offset to restore from, where no step before that one is needed."""
        while self._bounds and self._bounds[0][0] <= oldest_needed_step:
            self._start = self._bounds.popleft()[1]
        return self._start

    def position(self, mark: Mark, written_to: int) -> Position:
        """What to commit; ``written_to``: end offset of the steps that the round wrote, 0 without any."""
        end = max(self.end, written_to)
        start = end if mark.oldest_needed_step is None else self.start_for(mark.oldest_needed_step)
        return Position(mark.resume_offset, mark.next_offset, mark.watermark_ms, min(start, end), end)

    def settle(self, mark: Mark, position: Position) -> None:
        """That was committed."""
        self.end = position.steps_end
        if mark.closed_before is not None:
            self.note(mark.closed_before, position.steps_end)
