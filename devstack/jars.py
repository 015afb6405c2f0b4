"""Kafka and Apicurio from their Maven artifacts, cached under the user's cache folder and checked before each use."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from devstack.errors import StackError

log = structlog.get_logger(__name__)
KAFKA_VERSION = "4.3.1"
APICURIO_VERSION = "3.3.3"
_MANIFEST = "manifest.json"
_TIMEOUT_S = 900
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>fleetcast</groupId><artifactId>devstack</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


@dataclass(frozen=True, slots=True)
class Package:
    """What is fetched, and into which folder of the cache."""

    name: str
    version: str


KAFKA = Package("kafka", KAFKA_VERSION)
APICURIO = Package("apicurio-registry", APICURIO_VERSION)


def cache_folder() -> Path:
    """Below XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleetcast"


def jars(package: Package, *, thorough: bool = False, root: Path | None = None) -> Path:
    """The folder of a package's files, fetched where missing or damaged.

    Args:
        package: which.
        thorough: compare SHA-256 sums too, not only names and sizes.
        root: of the cache.

    Raises:
        StackError: Maven is missing, or the artifacts cannot be fetched.
    """
    root = root or cache_folder()
    folder = root / f"{package.name}-{package.version}"
    with _locked(root / f".{package.name}.lock"):
        if not intact(folder, thorough=thorough):
            log.info("fetching from Maven", package=package.name, version=package.version)
            _fetch(package, folder)
    return folder


def intact(folder: Path, *, thorough: bool = False) -> bool:
    """Whether the folder holds exactly what its manifest says."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for name, (size, digest) in manifest.items():
            file = folder / name
            if file.stat().st_size != size or (thorough and _sha256(file) != digest):
                return False
    except (OSError, ValueError, TypeError):
        return False
    return True


def _fetch(package: Package, folder: Path) -> None:
    """Fetch beside the final place and rename: the cache never holds half a package."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _fetch_kafka(temporary) if package is KAFKA else _fetch_apicurio(temporary)
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        manifest = {str(f.relative_to(temporary)): (f.stat().st_size, _sha256(f)) for f in files}
        (temporary / _MANIFEST).write_text(json.dumps(manifest))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch_kafka(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as project:
        (Path(project) / "pom.xml").write_text(_POM)
        _maven(project, "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}")


def _fetch_apicurio(folder: Path) -> None:
    artifact = f"io.apicurio:apicurio-registry-app:{APICURIO_VERSION}:tar.gz:all"
    with tempfile.TemporaryDirectory() as project:
        _maven(project, "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={project}")
        archive = next(Path(project).glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")


def _maven(project: str, *arguments: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise StackError(
            "Maven (mvn) is not on PATH; it fetches Apache Kafka and the registry. Install it, "
            "or use the embedded broker and registry"
        )
    command = [maven, "--quiet", "--batch-mode", "--strict-checksums", *arguments]
    try:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise StackError(f"Maven did not finish within {_TIMEOUT_S} s") from None
    if done.returncode:
        raise StackError(f"Maven failed:\n{(done.stdout + done.stderr)[-2000:]}")


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
