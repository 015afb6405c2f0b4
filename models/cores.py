"""How many cores there are to share work out to."""

import os


def cores() -> int:
    """Cores that this process may use (``os.process_cpu_count`` of Python 3.13)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
