"""Which member this is: the host's name and the lowest slot that no living process of this host holds.

The id names the transactional producer, so that the successor of a killed member fences what it left open at once. A
slot is a locked file: the lock goes with the process, however that ends. The file holds the id that the group knew the
member by; it is emptied by an orderly end, so a new holder that finds one knows that this member died.
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
    """A member's id. Keep it for as long as the process lives: the lock goes with it.

    Attributes:
        id: of the instance, the same in each life.
        former_member: the group's id of the former life, where that died as a member.
    """

    def __init__(self, group_id: str, given: str | None = None, folder: Path | None = None) -> None:
        """Take the lowest free slot, or the id that was given.

        Args:
            group_id: members of other groups have slots of their own.
            given: an id that the user vouches for.
            folder: of the lock files; by default the user's cache.

        Raises:
            InputError: the folder cannot be written, no slot is free, or a process of this host has the given id.
        """
        self._folder = folder or _default_folder()
        self._lock: IO[str]
        self.id = self._take(group_id, given)
        self._lock.seek(0)
        self.former_member = self._lock.read().strip() or None

    def remember(self, member_id: str) -> None:
        """Note what the group knows us by; the empty text where we left it."""
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(member_id)
        self._lock.flush()

    def close(self) -> None:
        """Let the slot go."""
        self._lock.close()

    def _take(self, group_id: str, given: str | None) -> str:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if given is not None:
                if not self._locked(group_id, given):
                    raise InputError(f"--instance-id: a process of this host runs as {given} of {group_id} already")
                return given
            for slot in range(_MOST_SLOTS):
                if self._locked(group_id, str(slot)):
                    return f"{socket.gethostname()}-{slot}"
        except OSError as error:
            raise InputError(f"no lock for the instance id in {self._folder}: {error} (XDG_CACHE_HOME)") from None
        raise InputError(f"no instance id: {_MOST_SLOTS} members of {group_id} run on this host already")

    def _locked(self, group_id: str, slot: str) -> bool:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{group_id}@{slot}")
        lock = (self._folder / f"{name}.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True


def _default_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "fleetcast" / "instances"
