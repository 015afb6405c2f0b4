"""How fast something came out of a stream, by the broker's own clock."""

import numpy as np
from numpy.typing import NDArray

from schemas.errors import FleetcastError

FIRST_MS = 250  # what is appended in it is the first round of writing: it was made before


def appended_a_second(times_ms: NDArray[np.int64]) -> float:
    """Records a second between the first and the last append, those of the first round not counted.

    A start (processes, imports, restoring) does not count; the first round's time does, so that nothing is flattered.

    Raises:
        FleetcastError: there were too few to tell.
    """
    if not len(times_ms) or times_ms[-1] - times_ms[0] <= FIRST_MS:
        raise FleetcastError(f"{len(times_ms)} records within {FIRST_MS} ms are too few to tell a speed")
    later = int((times_ms > times_ms[0] + FIRST_MS).sum())
    return 1000 * later / float(times_ms[-1] - times_ms[0])
