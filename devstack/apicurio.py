"""Apicurio Registry with its Confluent API."""

import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from devstack.janitor import Scratch
from devstack.jars import APICURIO, package_folder
from devstack.java import find_java
from devstack.server import PortTakenError, Server, free_ports

JAVA_AT_LEAST = 21
_ATTEMPTS = 3
_NAME = "Apicurio Registry"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy of the environment


class Apicurio:
    """A registry that keeps its schemas over a stop and a start."""

    def __init__(self, scratch: Scratch, log: Path) -> None:
        """Start it.

        Raises:
            StackError: Java, Maven or the archive is missing.
        """
        self._scratch, self._log = scratch, log
        self._java = str(find_java(JAVA_AT_LEAST).executable)
        self._jar = str(package_folder(APICURIO) / "quarkus-run.jar")
        self._folder = Path(tempfile.mkdtemp(prefix="apicurio-", dir=scratch.folder)).name
        self._server = self._launch()

    @property
    def url(self) -> str:
        """Of the Confluent API; final once it is ready."""
        return f"http://127.0.0.1:{self._ports[0]}/apis/ccompat/v7"

    def wait_ready(self) -> None:
        """Wait until it answers; start it on another port where its own was taken."""
        for attempt in range(_ATTEMPTS):
            try:
                self._server.wait_ready(lambda: answers(self.url))
            except PortTakenError:
                if attempt == _ATTEMPTS - 1:
                    raise
                self._server = self._launch()
            else:
                return

    def start(self) -> None:
        """Start again on the same data and port, after a stop; returns when it answers."""
        self._server.stop()
        self._server = self._start()
        self._server.wait_ready(lambda: answers(self.url))

    def ask_to_end(self) -> None:
        """Begin the stop."""
        self._server.ask_to_end()

    def stop(self) -> None:
        """End in order."""
        self._server.stop()

    def _launch(self) -> Server:
        self._ports = free_ports(2)  # of its API, and of a management page that cannot be switched off at run time
        return self._start()

    def _start(self) -> Server:
        command = [
            self._java, "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",  # quick to start, and small
            "-XX:-UsePerfData", f"-Djava.io.tmpdir={self._folder}",
            "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self._ports[0]}",
            # Otherwise port 9000 of all interfaces, which two of them cannot share.
            "-Dquarkus.management.host=127.0.0.1", f"-Dquarkus.management.port={self._ports[1]}",
            "-Dapicurio.rules.global.compatibility=BACKWARD",  # as Confluent's is; its own default is NONE
            "-Dapicurio.storage.kind=sql",
            f"-Dapicurio.datasource.url=jdbc:h2:file:./{self._folder}/registry",
            "-Dapicurio.datasource.jdbc.initial-size=2", "-Dapicurio.datasource.jdbc.min-size=2",
            "-jar", self._jar,
        ]  # fmt: skip
        return Server(_NAME, command, self._log, self._scratch, self._ports)


def answers(url: str) -> bool:
    """Whether a registry answers there."""
    try:
        with _DIRECT.open(f"{url}/subjects", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
