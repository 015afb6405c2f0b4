"""Long work in blocks, with a line of progress every few seconds."""

import time
from collections.abc import Iterator

import numpy as np
import structlog

from schemas.batch import Ints

log = structlog.get_logger(__name__)
BLOCK_WINDOWS = 256  # forecast and judged at once; bounds memory
_TELL_SECONDS = 5.0


def told(what: str, n: int, *, unit: str = "windows", rows: int = BLOCK_WINDOWS) -> Iterator[Ints]:
    """Rows 0 to ``n`` in blocks of ``rows``; ``what`` is done with so many of ``unit``."""
    started = last = time.monotonic()
    for start in range(0, n, rows):
        end = min(start + rows, n)
        yield np.arange(start, end)
        if time.monotonic() - last >= _TELL_SECONDS:
            last = time.monotonic()
            log.info(what, **{unit: end}, of=n, seconds=round(last - started, 1))
