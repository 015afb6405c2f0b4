"""Apicurio Registry with its Confluent API, in memory."""

import urllib.error
import urllib.request
from pathlib import Path

from devstack.errors import StackError
from devstack.jars import APICURIO, jars
from devstack.java import find_java
from devstack.server import Server, free_port

JAVA_AT_LEAST = 21


class Apicurio:
    """A registry that forgets everything when it stops."""

    def __init__(self, log: Path, cleanup: Path) -> None:
        """Start it; ``cleanup`` is removed should this process vanish.

        Raises:
            StackError: Java, Maven or the archive is missing.
        """
        java = find_java(JAVA_AT_LEAST).executable
        runner = next(jars(APICURIO).rglob("quarkus-run.jar"), None)
        if runner is None:
            raise StackError("Apicurio Registry's archive holds no quarkus-run.jar")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        command = [
            str(java), "-Xmx384m", "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}",
            "-Dapicurio.storage.kind=sql", f"-Djava.io.tmpdir={cleanup}", "-jar", str(runner),
        ]  # fmt: skip
        self._server = Server("Apicurio Registry", command, log, cleanup)

    def wait_ready(self) -> None:
        """Wait until it answers."""
        self._server.wait_ready(lambda: answers(self.url))

    def stop(self) -> None:
        """End in order."""
        self._server.stop()


def answers(url: str) -> bool:
    """Whether a registry answers there."""
    try:
        with urllib.request.urlopen(f"{url}/subjects", timeout=2) as answer:  # noqa: S310  an address of our own
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
