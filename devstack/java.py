"""Finding a Java that is new enough: JAVA_HOME, PATH, then the usual folders."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import StackError

USUAL = (
    "/usr/lib/jvm/*",
    "/opt/java*",
    "/opt/java/*",
    "~/.sdkman/candidates/java/*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
    "/opt/homebrew/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
)
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


@dataclass(frozen=True, slots=True)
class Java:
    """An executable and its major version."""

    executable: Path
    version: int


def find_java(at_least: int, environment: Mapping[str, str] = os.environ, folders: tuple[str, ...] = USUAL) -> Java:
    """The first Java that is new enough.

    Raises:
        StackError: there is none; says what was found instead.
    """
    seen: list[str] = []
    for executable in _candidates(environment, folders):
        version = java_version(executable)
        if version is not None and version >= at_least:
            return Java(executable, version)
        seen.append(f"{executable} ({'not a working Java' if version is None else version})")
    found = f"; found only {', '.join(seen)}" if seen else ""
    raise StackError(
        f"no Java {at_least} or newer in JAVA_HOME, on PATH or in the usual folders{found}. "
        f"Install a JDK or JRE of version {at_least} or newer, or use the embedded broker and registry"
    )


def java_version(executable: Path) -> int | None:
    """The major version an executable reports, or None where it is no working Java."""
    try:
        told = subprocess.run([str(executable), "-version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(told.stderr + told.stdout)
    return int(match[1]) if match else None


def _candidates(environment: Mapping[str, str], folders: tuple[str, ...]) -> Iterator[Path]:
    if home := environment.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java", path=environment.get("PATH", "")):
        yield Path(on_path)
    for pattern in folders:
        expanded = Path(pattern).expanduser()
        for home_folder in sorted(Path(expanded.anchor).glob(str(expanded.relative_to(expanded.anchor)))):
            java = home_folder / "bin" / "java"
            if java.is_file():
                yield java
