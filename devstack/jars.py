"""Kafka and Apicurio from their Maven artifacts, cached under the user's cache folder and checked before each use."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from devstack.errors import StackError
from devstack.java import find_java

log = structlog.get_logger(__name__)
_MANIFEST = "manifest.json"
_TIMEOUT_S = 900
_MAVEN_JAVA_AT_LEAST = 8


@dataclass(frozen=True, slots=True)
class Package:
    """What is fetched, and into which folder of the cache.

    Attributes:
        name: of the folder. version: likewise.
        coordinates: of its Maven artifacts.
        fill: fetches them into a folder.
    """

    name: str
    version: str
    coordinates: tuple[str, ...]
    fill: "Callable[[Package, Path], None]"


def fetch_jars(root: Path | None = None) -> list[Path]:
    """Fetch what is missing or damaged, checked by SHA-256; the folders.

    Args:
        root: of the cache; None for the user's.

    Raises:
        StackError: Maven is missing, or the artifacts cannot be fetched.
    """
    return [package_folder(package, thorough=True, root=root) for package in (KAFKA, APICURIO)]


def package_folder(package: Package, *, thorough: bool = False, root: Path | None = None) -> Path:
    """The folder of a package's files, fetched where missing or damaged.

    Args:
        package: which.
        thorough: compare SHA-256 sums too, not only names and sizes.
        root: of the cache; None for the user's.

    Raises:
        StackError: Maven is missing, or the artifacts cannot be fetched.
    """
    root = root or cache_folder()
    folder = root / package.name / package.version
    if intact(package, folder, thorough=thorough):
        return folder
    try:
        with _locked(root / ".lock"):
            if not intact(package, folder, thorough=thorough):  # another process may have been quicker
                _fetch(package, folder)
    except (OSError, tarfile.TarError) as error:
        raise StackError(f"{package.name} {package.version} cannot be kept in {folder}: {error}") from None
    return folder


def cache_folder() -> Path:
    """Below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleetcast" / "devstack"


def intact(package: Package, folder: Path, *, thorough: bool = False) -> bool:
    """Whether the folder holds exactly the files of its manifest, and those are the package's."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        sizes = {name: size for name, (size, _) in manifest["files"].items()}
        if manifest["coordinates"] != list(package.coordinates) or sizes != _sizes(folder):
            return False
        return not thorough or all(_sha256(folder / name) == digest for name, (_, digest) in manifest["files"].items())
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return False


def _fetch(package: Package, folder: Path) -> None:
    """Fetch beside the final place and rename: the cache never holds half a package."""
    log.info("fetching from Maven", package=package.name, version=package.version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{package.version}.*"):  # by a fetch that was killed; we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{package.version}.", dir=folder.parent) as temporary:
        fetched, old = Path(temporary, "fetched"), Path(temporary, "old")
        fetched.mkdir()
        package.fill(package, fetched)
        if not _sizes(fetched):
            raise StackError(f"Maven fetched no files of {package.name} {package.version}")
        files = {name: (size, _sha256(fetched / name)) for name, size in _sizes(fetched).items()}
        manifest = {"coordinates": package.coordinates, "files": files}
        (fetched / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        if folder.exists():
            folder.rename(old)
        fetched.rename(folder)


def _fill_kafka(package: Package, folder: Path) -> None:
    """The jars and all they depend on."""
    wanted = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *coordinates.split(":")
        )
        for coordinates in package.coordinates
    )
    project = folder.with_name("project")
    project.mkdir()
    (project / "pom.xml").write_text(
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>fleetcast</groupId><artifactId>devstack</artifactId><version>1</version>"
        f"<dependencies>{wanted}</dependencies></project>"
    )
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    _maven(package, project, goal)


def _fill_apicurio(package: Package, folder: Path) -> None:
    """One archive, unpacked."""
    project = folder.with_name("project")
    project.mkdir()
    (artifact,) = package.coordinates
    _maven(package, project, ["dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={project}"])
    for archive in project.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            # 'data' where this Python has it (3.11.4 and newer); Maven has checked the archive's sum anyway.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(folder)  # noqa: S202  see above


def _maven(package: Package, project: Path, goal: list[str]) -> None:
    """Run a goal; Maven compares each download with its published checksum (``--strict-checksums``)."""
    maven = shutil.which("mvn")
    if maven is None:
        raise StackError(
            f"Maven (mvn), which fetches {package.name} {package.version}, is not on PATH: "
            "install it, or copy a filled cache folder here"
        )
    command = [maven, "--quiet", "--batch-mode", "--strict-checksums", *goal]
    environment = dict(os.environ)
    if "JAVA_HOME" not in environment:  # Maven looks on PATH only
        environment["JAVA_HOME"] = str(find_java(_MAVEN_JAVA_AT_LEAST).executable.parent.parent)
    try:
        done = subprocess.run(
            command, cwd=project, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StackError(f"Maven did not fetch {package.name} {package.version} within {_TIMEOUT_S} s") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        why = next((line for line in lines if "ERROR" in line), "it says nothing")
        raise StackError(f"Maven could not fetch {package.name} {package.version}: {why[:500]}")


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file by its relative path, the manifest left out."""
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != _MANIFEST
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One fetcher at a time, across processes; the lock falls with its holder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


KAFKA = Package(
    "kafka",
    "4.3.1",
    (
        "org.apache.kafka:kafka_2.13:4.3.1",
        "org.apache.kafka:kafka-tools:4.3.1",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",  # without it Kafka logs nothing
    ),
    _fill_kafka,
)
APICURIO = Package(
    "apicurio-registry", "3.3.3", ("io.apicurio:apicurio-registry-app:3.3.3:tar.gz:all",), _fill_apicurio
)
