"""Apache Kafka in KRaft mode on this machine: one broker, and its controller in the same process or in one of its own.

A broker that is to be killed has its controller apart. In one process the controller dies with its broker, so that
nobody fences the broker while it is away: started again it takes itself for the leader, is deposed and elected again
within a second, and its group coordinator loads its log twice at once. Kafka 4.3.1 then serves a group from half of its
log: forgotten members keep their partitions, or the group is "out of sync with the underlying log" (docs/devstack.md).
"""

import tempfile
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from devstack.janitor import Scratch
from devstack.jars import KAFKA, package_folder
from devstack.java import find_java
from devstack.server import PortTakenError, Server, free_ports, listens

JAVA_AT_LEAST = 17
_ATTEMPTS = 3
_NAME = "Apache Kafka"
BROKER, CONTROLLER, BOTH = "broker", "controller", "broker,controller"


class Kafka:
    """A broker that can be killed and started again on the same data and port."""

    def __init__(self, scratch: Scratch, log: Path, *, may_be_killed: bool = False) -> None:
        """Format the storage and start. ``may_be_killed``: with a controller that survives the broker.

        Raises:
            StackError: Java, Maven or the jars are missing, or the storage cannot be formatted.
        """
        self._scratch, self._log = scratch, log
        self._roles = (CONTROLLER, BROKER) if may_be_killed else (BOTH,)
        self._broker = self._roles[-1]
        self._java = str(find_java(JAVA_AT_LEAST).executable)
        self._classpath = f"{package_folder(KAFKA)}/*"
        self._cluster_id = _cluster_id()
        self._launch()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect; final once it is ready."""
        return f"127.0.0.1:{self._ports[0]}"

    def wait_ready(self) -> None:
        """Wait until the broker answers a metadata request; start it on other ports where its own were taken."""
        for attempt in range(_ATTEMPTS):
            try:
                if self._roles != (BOTH,):  # without it the broker would wait, and not say for whom
                    self._servers[CONTROLLER].wait_ready(lambda: listens(self._ports[1]))
                self._servers[self._broker].wait_ready(self._answers)
            except PortTakenError:
                self.stop()
                if attempt == _ATTEMPTS - 1:
                    raise
                self._launch()
            else:
                return

    def kill(self) -> None:
        """SIGKILL to the broker."""
        self._servers[self._broker].kill()

    def restart(self) -> None:
        """Start the broker again on the same data and port, after a kill or a stop; returns when it answers."""
        self._servers[self._broker].stop()
        self._servers[self._broker] = self._start(self._broker)
        self._servers[self._broker].wait_ready(self._answers)

    def ask_to_end(self) -> None:
        """Begin the stop. A broker takes leave of its controller, which is asked when the broker has ended."""
        self._servers[self._broker].ask_to_end()

    def stop(self) -> None:
        """End in order."""
        for role in reversed(self._roles):
            self._servers[role].stop()

    def _answers(self) -> bool:
        """Whether it is ours that answers: another stack's broker may have been quicker to take the port."""
        return answering_cluster(self.bootstrap_servers) == self._cluster_id

    def _launch(self) -> None:
        """Start on new ports and new storage."""
        self._ports = free_ports(2)
        self._folder = Path(tempfile.mkdtemp(prefix="kafka-", dir=self._scratch.folder))
        (self._folder / "native").mkdir()
        (self._folder / "log4j2.properties").write_text(_LOGGING)
        formatting = []
        for role in self._roles:
            (self._scratch.folder / self._settings(role)).write_text(_properties(self._folder.name, role, *self._ports))
            options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]  # it lives for a second
            command = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", self._settings(role)]
            formatting.append(
                Server("formatting Kafka's storage", self._command(options, command), self._log, self._scratch)
            )
        for each in formatting:
            each.wait_done()
        self._servers = {role: self._start(role) for role in self._roles}

    def _start(self, role: str) -> Server:
        memory = "-Xmx256m" if role == CONTROLLER else "-Xmx1g"
        name = _NAME if role != CONTROLLER else f"the controller of {_NAME}"
        command = self._command([memory], ["kafka.Kafka", self._settings(role)])
        ports = {BROKER: self._ports[:1], CONTROLLER: self._ports[1:], BOTH: self._ports}[role]
        return Server(name, command, self._log, self._scratch, ports)

    def _settings(self, role: str) -> str:
        return f"{self._folder.name}/{role.replace(',', '-')}.properties"

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


def _properties(folder: str, role: str, port: int, controller_port: int) -> str:
    outside, inside = f"PLAINTEXT://127.0.0.1:{port}", f"CONTROLLER://127.0.0.1:{controller_port}"
    controller = 1 if role == BOTH else 2
    settings: dict[str, object] = {
        "process.roles": role,
        "node.id": controller if role == CONTROLLER else 1,
        "controller.quorum.voters": f"{controller}@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": {BROKER: outside, CONTROLLER: inside, BOTH: f"{outside},{inside}"}[role],
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": f"{folder}/{role.replace(',', '-')}",
        # After SIGKILL the controller takes the broker back only when its former session has ended (default 9 s).
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
    }
    if role != CONTROLLER:
        settings |= {"advertised.listeners": outside, **_BROKER}
    return "".join(f"{name}={value}\n" for name, value in settings.items())


_BROKER = {
    "auto.create.topics.enable": "false",
    # One node: internal topics have one replica.
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # Quick rebalances and takeovers (KIP-848): with the defaults they take half a minute.
    "group.initial.rebalance.delay.ms": 0,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
    "group.consumer.min.heartbeat.interval.ms": 500,
    "group.consumer.heartbeat.interval.ms": 1000,
    "group.consumer.min.session.timeout.ms": 3000,
    "group.consumer.session.timeout.ms": 6000,
}
