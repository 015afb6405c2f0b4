"""Apache Kafka: one KRaft node on this machine."""

import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devstack.errors import StackError
from devstack.jars import KAFKA, jars
from devstack.java import find_java
from devstack.server import Server, free_port

JAVA_AT_LEAST = 17
_HEAP = "-Xmx1g"


class Kafka:
    """A broker with its data in ``folder``; it can be killed and started again on the same data and port."""

    def __init__(self, folder: Path, log: Path, cleanup: Path) -> None:
        """Format the storage and start; ``cleanup`` is removed should this process vanish.

        Raises:
            StackError: Java, Maven or the jars are missing, or the storage cannot be formatted.
        """
        self._log, self._cleanup = log, cleanup
        self._java = str(find_java(JAVA_AT_LEAST).executable)
        self._classpath = f"{jars(KAFKA)}/*"
        self.port, controller = free_port(), free_port()
        self._properties = folder / "server.properties"
        self._properties.write_text(_properties(folder / "log", self.port, controller))
        self._format()
        self._server = self._start()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    def wait_ready(self) -> None:
        """Wait until the broker answers a metadata request."""
        self._server.wait_ready(lambda: answers(self.bootstrap_servers))

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def restart(self) -> None:
        """Start again on the same data and port, after a kill or a stop."""
        self._server.stop()
        self._server = self._start()
        self.wait_ready()

    def stop(self) -> None:
        """End in order."""
        self._server.stop()

    def _start(self) -> Server:
        command = [self._java, _HEAP, "-cp", self._classpath, "kafka.Kafka", str(self._properties)]
        return Server("Apache Kafka", command, self._log, self._cleanup)

    def _format(self) -> None:
        command = [
            self._java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", self._classpath, "kafka.tools.StorageTool",
            "format", "-t", _cluster_id(), "-c", str(self._properties),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise StackError(f"Kafka's storage cannot be formatted:\n{(done.stdout + done.stderr)[-1000:]}")


def answers(bootstrap_servers: str) -> bool:
    """Whether a broker answers there."""
    try:
        # Not answering yet is what we ask about; the client need not log it.
        client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0, "socket.timeout.ms": 1000})
        return bool(client.list_topics(timeout=1).brokers)
    except KafkaException:
        return False


def _cluster_id() -> str:
    """A Kafka Uuid: 16 bytes in URL-safe base64 without padding."""
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _properties(data: Path, port: int, controller_port: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
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
    return "".join(f"{name}={value}\n" for name, value in settings.items())
