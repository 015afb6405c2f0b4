"""Finding a Java that is new enough: JAVA_HOME, PATH, then the usual folders."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import StackError

FOLDERS_VARIABLE = "FLEETCAST_JAVA_FOLDERS"
USUAL = (
    "/usr/lib/jvm/*",
    "/usr/lib64/jvm/*",
    "/usr/java/*",
    "/usr/local/openjdk*",
    "/opt/java*",
    "/opt/java/*",
    "~/.sdkman/candidates/java/*",
    "~/.jdks/*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
    "/opt/homebrew/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
)
_ASK_S = 20
_REPORTED = re.compile(r'version "(?:1\.)?(\d+)')  # Java 8 calls itself 1.8
_RELEASED = re.compile(r'^JAVA_VERSION="(?:1\.)?(\d+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Java:
    """An executable and its major version."""

    executable: Path
    version: int


def find_java(at_least: int, environment: Mapping[str, str] = os.environ) -> Java:
    """The first Java that is new enough and runs.

    The environment's ``FLEETCAST_JAVA_FOLDERS`` (patterns, separated as in PATH) stands in for the usual folders.

    Raises:
        StackError: there is none; says what was looked for, where, what was found instead and what to do.
    """
    asked = environment.get(FOLDERS_VARIABLE)
    folders = USUAL if asked is None else tuple(filter(None, asked.split(os.pathsep)))
    seen: dict[Path, str] = {}
    for executable in _candidates(environment, folders):
        real = executable.resolve()  # /usr/bin/java and most of /usr/lib/jvm are links
        if real in seen:
            continue
        version = java_version(real, at_least)
        if version is not None and version >= at_least:
            return Java(real, version)
        seen[real] = f"{executable} ({'does not run' if version is None else f'version {version}'})"
    where = f"the usual folders such as {USUAL[0]}" if asked is None else f"{FOLDERS_VARIABLE} ({asked})"
    found = f" (found only {', '.join(seen.values())})" if seen else ""
    raise StackError(
        f"no Java {at_least} or newer in JAVA_HOME, on PATH or in {where}{found}: "
        f"install a Java runtime of version {at_least} or newer, or set JAVA_HOME to one"
    )


def java_version(executable: Path, at_least: int = 0) -> int | None:
    """The major version an executable reports, or None where it does not run.

    One whose ``release`` file says that it is older than ``at_least`` is not run.
    """
    released = _release(executable.parent.parent / "release")
    if released is not None and released < at_least:
        return released
    try:
        told = subprocess.run(
            [str(executable), "-version"], capture_output=True, text=True, errors="replace", timeout=_ASK_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _REPORTED.search(told.stderr + told.stdout)
    return int(match[1]) if match else None


def _release(file: Path) -> int | None:
    try:
        match = _RELEASED.search(file.read_text(errors="replace"))
    except OSError:
        return None
    return int(match[1]) if match else None


def _candidates(environment: Mapping[str, str], folders: tuple[str, ...]) -> Iterator[Path]:
    if home := environment.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java", path=environment.get("PATH", "")):
        yield Path(on_path)
    for pattern in folders:
        expanded = Path(pattern).expanduser().absolute()
        for folder in sorted(Path(expanded.anchor).glob(str(expanded.relative_to(expanded.anchor)))):
            if (java := folder / "bin" / "java").is_file():
                yield java
