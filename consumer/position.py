"""How far a partition's log was processed, and how that is kept: an offset, and a short text that Kafka stores with it.

The committed offset is the first one whose event still sits in an open step, so that no partial sum is saved. What it
alone cannot say goes into the commit metadata (``OffsetAndMetadata``; KIP-447 puts both into the transaction):

- ``next``: the first offset that was not processed. Events before it are read again for the sake of open steps only.
- ``watermark``: in ms; what ends at or before it is closed.
- ``steps``: of the steps' partition, an offset from which all windows can be restored, and the end of what was
  written up to this commit.
"""

import json
from dataclasses import dataclass

VERSION = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """The state of a partition's log after a whole batch.

    Attributes:
        resume_offset: what a restart reads first: the first event in an open step, else ``next_offset``.
        next_offset: the first record that was not processed.
        watermark_ms: None before the first event.
        closed_before: steps (since the epoch) before it are closed; None before the first event.
        oldest_needed_step: windows may be restored without steps before it; None before the first event.
    """

    resume_offset: int
    next_offset: int
    watermark_ms: int | None
    closed_before: int | None
    oldest_needed_step: int | None


@dataclass(frozen=True, slots=True)
class Position:
    """What is committed of a partition.

    Attributes:
        resume_offset: the committed offset.
        next_offset, watermark_ms: as in ``Mark``.
        steps_from: offset in the steps' partition from which its windows can be restored; any lower bound.
        steps_end: end offset of the steps that belong to this position.
    """

    resume_offset: int
    next_offset: int
    watermark_ms: int | None
    steps_from: int
    steps_end: int

    def metadata(self) -> str:
        """The text beside the offset."""
        fields = {
            "v": VERSION, "next": self.next_offset, "watermark": self.watermark_ms,
            "steps": [self.steps_from, self.steps_end],
        }  # fmt: skip
        return json.dumps(fields, separators=(",", ":"))


def parse(offset: int, metadata: str | None) -> Position | None:
    """The position that was committed; None where the metadata are missing, of another version or damaged."""
    try:
        found = json.loads(metadata or "")
        start, end = found["steps"]
        following, watermark = found["next"], found["watermark"]
        if found["v"] != VERSION:
            return None
    except (ValueError, KeyError, TypeError):
        return None
    numbers = (following, start, end, 0 if watermark is None else watermark)
    if not all(type(n) is int for n in numbers) or not 0 <= offset <= following or not 0 <= start <= end:
        return None
    return Position(offset, following, watermark, start, end)
