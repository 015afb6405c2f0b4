"""Apache Kafka: one KRaft node on this machine."""

import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from devstack.janitor import Scratch
from devstack.jars import KAFKA, package_folder
from devstack.java import find_java
from devstack.server import PortTakenError, Server, free_ports

JAVA_AT_LEAST = 17
_ATTEMPTS = 3
_NAME = "Apache Kafka"


class Kafka:
    """A broker that can be killed and started again on the same data and port."""

    def __init__(self, scratch: Scratch, log: Path) -> None:
        """Format the storage and start.

        Raises:
            StackError: Java, Maven or the jars are missing, or the storage cannot be formatted.
        """
        self._scratch, self._log = scratch, log
        self._java = str(find_java(JAVA_AT_LEAST).executable)
        self._classpath = f"{package_folder(KAFKA)}/*"
        self._cluster_id = _cluster_id()
        self._server = self._launch()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect; final once it is ready."""
        return f"127.0.0.1:{self._ports[0]}"

    def wait_ready(self) -> None:
        """Wait until the broker answers a metadata request; start it on other ports where its own were taken."""
        for attempt in range(_ATTEMPTS):
            try:
                self._server.wait_ready(self._answers)
            except PortTakenError:
                if attempt == _ATTEMPTS - 1:
                    raise
                self._server = self._launch()
            else:
                return

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def restart(self) -> None:
        """Start again on the same data and port, after a kill or a stop; returns when it answers."""
        self._server.stop()
        self._server = self._start()
        self._server.wait_ready(self._answers)

    def ask_to_end(self) -> None:
        """Begin the stop."""
        self._server.ask_to_end()

    def stop(self) -> None:
        """End in order."""
        self._server.stop()

    def _answers(self) -> bool:
        """Whether it is ours that answers: another stack's broker may have been quicker to take the port."""
        return answering_cluster(self.bootstrap_servers) == self._cluster_id

    def _launch(self) -> Server:
        """Start on new ports and new storage."""
        self._ports = free_ports(2)
        self._folder = Path(tempfile.mkdtemp(prefix="kafka-", dir=self._scratch.folder))
        (self._folder / "native").mkdir()
        (self._folder / "log4j2.properties").write_text(_LOGGING)
        (self._folder / "server.properties").write_text(_properties(self._folder.name, *self._ports))
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # it lives for a second
        settings = f"{self._folder.name}/server.properties"
        formatting = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", settings]
        Server("formatting Kafka's storage", self._command(options, formatting), self._log, self._scratch).wait_done()
        return self._start()

    def _start(self) -> Server:
        main = ["kafka.Kafka", f"{self._folder.name}/server.properties"]
        return Server(_NAME, self._command(["-Xmx1g"], main), self._log, self._scratch, self._ports)

    def _command(self, options: list[str], main: list[str]) -> list[str]:
        """Paths are relative to the scratch folder, where a server runs: no character of its name can do harm."""
        return [
            self._java, *options,
            # Nothing outside our folder that a SIGKILL would leave behind.
            "-XX:-UsePerfData", f"-Djava.io.tmpdir={self._folder.name}/native",
            f"-Dlog4j2.configurationFile={self._folder.name}/log4j2.properties",
            "-cp", self._classpath, *main,
        ]  # fmt: skip


def answering_cluster(bootstrap_servers: str) -> str | None:
    """The id of the cluster whose broker answers there, if one does."""
    from confluent_kafka import KafkaException  # noqa: PLC0415  `import devstack` stays light
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    try:
        # Not answering yet is what we ask about; the client need not log it.
        client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0, "socket.timeout.ms": 1000})
        metadata = client.list_topics(timeout=1)
    except KafkaException:
        return None
    return str(metadata.cluster_id) if metadata.brokers else None


def _cluster_id() -> str:
    """A Kafka Uuid: 16 bytes in URL-safe base64 without padding; as Kafka's own, none that looks like an option."""
    while (found := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return found


_LOGGING = """\
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
"""


def _properties(folder: str, port: int, controller_port: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": f"{folder}/log",
        "auto.create.topics.enable": "false",
        # One node: internal topics have one replica.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # After SIGKILL the controller takes the broker back only when its former session has ended (default 9 s).
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # Quick rebalances and takeovers (KIP-848): with the defaults they take half a minute.
        "group.initial.rebalance.delay.ms": 0,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
        "group.consumer.min.heartbeat.interval.ms": 500,
        "group.consumer.heartbeat.interval.ms": 1000,
        "group.consumer.min.session.timeout.ms": 3000,
        "group.consumer.session.timeout.ms": 6000,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
