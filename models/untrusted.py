"""Reading files that may be damaged or made to harm: regular files of this folder, of bounded size, JSON of ours."""

import hashlib
import json
import stat
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Never

from schemas.errors import ArtifactError

MAX_JSON_BYTES = 4 << 20
MAX_WEIGHTS_BYTES = 1 << 30
DAMAGED = "its SHA-256 is not the one that config.json has: it was changed or damaged"
_MOST_LEVELS = 32
_MESSAGE = 500  # what a damaged file holds is quoted; a megabyte of it helps nobody


def refuse(path: Path, problem: str) -> Never:
    """Raise, naming the file; what is quoted of it is cut short and cannot steer a terminal."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in problem)
    raise ArtifactError(f"{path}: {shown if len(shown) <= _MESSAGE else shown[:_MESSAGE] + '...'}")


def open_regular(path: Path, most_bytes: int) -> BinaryIO:
    """The file, which must be a regular one, lie in the model's folder, and not be too large."""
    try:
        real = path.resolve(strict=True)
        status = real.stat()
        if not real.is_relative_to(path.parent.resolve()):
            refuse(path, "it leads out of the model's folder")
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its writer
            refuse(path, "it is no regular file")
        if status.st_size > most_bytes:
            refuse(path, f"it is larger than {most_bytes} bytes")
        return real.open("rb")
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        raise ArtifactError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def parse(path: Path, data: bytes) -> Any:
    """JSON in UTF-8, each key once, not deeper than ours is."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(table := dict(pairs)) < len(pairs):
            raise ValueError(f"key {Counter(name for name, _ in pairs).most_common(1)[0][0]!r} stands twice")
        return table

    try:
        parsed = json.loads(data.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        refuse(path, f"it is not JSON: {error}")
    level = [parsed]
    for _ in range(_MOST_LEVELS):
        level = [c for v in level if isinstance(v, dict | list) for c in (v.values() if isinstance(v, dict) else v)]
    return parsed if not level else refuse(path, f"it is nested more than {_MOST_LEVELS} levels deep")


def read_json(path: Path) -> Any:
    """A file of JSON.

    Raises:
        ArtifactError: it is not one, or not of the kind that this project writes.
    """
    with open_regular(path, MAX_JSON_BYTES) as file:
        return parse(path, file.read(MAX_JSON_BYTES))


def read_weights(path: Path, expected_sha256: str) -> bytes:
    """The weights' bytes, if they are those that the config names.

    Raises:
        ArtifactError: they are not.
    """
    with open_regular(path, MAX_WEIGHTS_BYTES) as file:
        data = file.read(MAX_WEIGHTS_BYTES)
    if sha256(data) != expected_sha256:
        refuse(path, DAMAGED)
    return data


def sha256(data: bytes) -> str:
    """In hex."""
    return hashlib.sha256(data).hexdigest()
