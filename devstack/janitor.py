"""Removes a folder once nobody uses it any more, however its users ended."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_WAIT_S = 20
# Reads a pipe that the owner and each of its servers hold open: the end of it means that all of them have gone.
_SCRIPT = 'trap "" HUP INT TERM; while read -r _; do :; done; rm -rf -- "$1"'


@dataclass(frozen=True, slots=True)
class Scratch:
    """A folder for data, and the pipe that whoever uses it holds open."""

    folder: Path
    pipe: int


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Scratch]:
    """A new folder in ``parent`` (or among the temporary ones), gone once we and all who inherit the pipe have ended.

    By whatever way, SIGKILL included: a process of its own waits for that end.
    """
    folder = Path(tempfile.mkdtemp(prefix="fleetcast-", dir=parent))
    reading, writing = os.pipe()
    try:
        janitor = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "janitor", str(folder)],
            stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
            env={"PATH": os.defpath},  # ours may be empty
        )  # fmt: skip
    finally:
        os.close(reading)
    try:
        yield Scratch(folder, writing)
    finally:
        os.close(writing)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it goes on without us
            janitor.wait(_WAIT_S)
            shutil.rmtree(folder, ignore_errors=True)  # where it was killed
