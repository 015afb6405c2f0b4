"""Training and evaluation windows: the serving windows over a whole history, kept as arrays and sampled from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.partition import Partition
from models.windows import WindowBatch
from schemas.batch import Codes, EventBatch, Floats, Ints
from schemas.column_batch import ColumnBatch
from schemas.contract import Contract
from schemas.errors import DataError

_CHUNK_ROWS = 65_536
_MOST_BYTES = 8 << 30


@dataclass(frozen=True, slots=True)
class Samples(ColumnBatch):
    """Windows that may be gathered, a row each.

    Attributes:
        slot, step: [n] server and last step of the window. available: [n] its longest length.
        enums: [n, enums] symbols at the last step.
    """

    slot: Ints
    step: Ints
    available: Ints
    enums: Codes

    def __len__(self) -> int:
        return len(self.step)


class History:
    """All closed steps of a history, through the same code as serving.

    Attributes:
        samples: every observed step that has a window of at least ``min_encoder_steps`` before it.
        slot, step, reals, enums: [n], [n], [n, reals], [n, enums] all observed steps, in the order of their closing.
        refused: events that were not valid or late.
    """

    def __init__(self, contract: Contract, events: EventBatch) -> None:
        """Feed the events, in time order, as one partition.

        Raises:
            DataError: there are none.
        """
        if not len(events):
            raise DataError("the data holds no events")
        self.contract = contract
        span = _span(contract, events)
        self._partition = Partition(contract, span + contract.settings.horizon_steps, evict=False)
        parts = []
        self.refused: dict[str, int] = {}
        why = ""
        for start in range(0, len(events), _CHUNK_ROWS):
            chunk = events.take(slice(start, start + _CHUNK_ROWS))
            closing, rejected = self._partition.advance(chunk, np.arange(start, start + len(chunk)))
            for rejection in rejected:
                self.refused[rejection.stage] = self.refused.get(rejection.stage, 0) + 1
                why = why or rejection.reason
            for closed, _ in closing:
                parts.append((closed.slot, closed.step, closed.available, closed.enums, closed.reals, closed.held))
        if sum(self.refused.values()) == len(events):
            raise DataError(f"all {len(events)} events were refused; the first: {why}")
        if not parts:
            raise DataError("no step of the data ever closes: it spans less than one step")
        slot, step, available, enums, reals, held = map(np.concatenate, zip(*parts, strict=True))
        observed = ~held
        ready = observed & (available >= contract.settings.min_encoder_steps)
        self.samples = Samples(slot[ready], step[ready], available[ready], enums[ready])
        self.slot: Ints = slot[observed]
        self.step: Ints = step[observed]
        self.reals: Floats = reals[observed]
        self.enums: Codes = enums[observed]

    @property
    def keys(self) -> list[str]:
        """Server of each slot."""
        return self._partition.keys

    def windows(self, samples: Samples, lengths: Ints | None = None) -> WindowBatch:
        """The samples' windows; of their full length without ``lengths``."""
        if lengths is None:
            lengths = np.minimum(samples.available, self.contract.settings.encoder_steps)
        return self._partition.windows.gather(samples.slot, samples.step, lengths, samples.available, samples.enums)

    def future(self, samples: Samples) -> NDArray[np.float32]:
        """[B, horizon, targets] what came after; NaN where nothing was observed."""
        return self._partition.windows.future(samples.slot, samples.step)

    def past(self, samples: Samples, steps_back: Ints) -> NDArray[np.float32]:
        """[B, k, targets] values ``steps_back`` [k] steps before each window's end (0 is the end); NaN if unknown."""
        return self._partition.windows.past(samples.slot, samples.step, samples.available, steps_back)


def _span(contract: Contract, events: EventBatch) -> int:
    """Steps between the first and the last event, if that many can be kept for every server.

    Raises:
        DataError: they cannot; most likely one event's clock is far off.
    """
    span = int(np.ptp(events.time)) // contract.step_ms + 1
    servers = len(set(events.keys.tolist()))
    needed = span * servers * (4 * len(contract.inputs) + 2 * len(contract.categories) + 2)
    if needed > _MOST_BYTES:
        first, last = (str(np.datetime64(int(t), "ms")) for t in (events.time.min(), events.time.max()))
        raise DataError(
            f"the data spans {span} steps of {servers} servers, from {first} to {last}: {needed >> 30} GiB of windows. "
            "Is a clock far off? If not, give less of it at once"
        )
    return span
