"""Which member this is: the host's name and the lowest slot that no living process of this host holds.

The id names the transactional producer, so that the successor of a killed member fences what it left open at once. A
slot is a locked file: the lock goes with the process, however that ends.
"""

import fcntl
import os
import re
import socket
from pathlib import Path
from typing import IO

from schemas.errors import InputError

_MOST_SLOTS = 1024


class Instance:
    """A member's id. Keep it for as long as the process lives: the lock goes with it."""

    def __init__(self, group_id: str, given: str | None = None, folder: Path | None = None) -> None:
        """Take the lowest free slot, or the id that was given.

        Args:
            group_id: members of other groups have slots of their own.
            given: an id that the user vouches for.
            folder: of the lock files; by default the user's cache.

        Raises:
            InputError: the folder cannot be written, or no slot is free.
        """
        self._lock: IO[str] | None = None
        self.id = given or f"{socket.gethostname()}-{self._slot(group_id, folder or _default_folder())}"

    def close(self) -> None:
        """Let the slot go."""
        if self._lock is not None:
            self._lock.close()

    def _slot(self, group_id: str, folder: Path) -> int:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", group_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for slot in range(_MOST_SLOTS):
                lock = (folder / f"{name}-{slot}.lock").open("a")
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    lock.close()
                else:
                    self._lock = lock
                    return slot
        except OSError as error:
            raise InputError(
                f"no instance id: {folder} cannot be used ({error}); name one with --instance-id"
            ) from None
        raise InputError(f"no instance id: {_MOST_SLOTS} members of {group_id} run on this host already")


def _default_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "fleetcast" / "instances"
