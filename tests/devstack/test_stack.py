"""Apache Kafka and Apicurio for real: what a stop, a signal or a crash leaves behind."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from devstack import Stack, StackError, start_stack
from devstack.apicurio import answers
from devstack.java import FOLDERS_VARIABLE, find_java
from devstack.kafka import answering_cluster
from tests.devstack.scripts import java

pytestmark = pytest.mark.integration


def until(holds: Callable[[], object], limit_s: float = 30) -> bool:
    """Polls another process's doing."""
    deadline = time.monotonic() + limit_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(holds())


def javas(parent: int | None = None) -> list[psutil.Process]:
    return [process for process in psutil.Process(parent).children(recursive=True) if process.name() == "java"]


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: Stack) -> Path:
    """The folder that stands for /tmp; asks for ``stack`` so that a missing Java skips, or fails in CI."""
    assert stack.broker == "apache"
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(temporary: Path) -> Iterator[Run]:
    """Starts ``python -m devstack run``."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        assert temporary.is_dir()
        command = [sys.executable, "-m", "devstack", "run", *options]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> list[str]:
    """The three lines that say what runs, and where."""
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(3)]


@pytest.mark.parametrize(
    ("number", "code", "options"),
    [
        (signal.SIGTERM, 0, []),
        (signal.SIGINT, 0, ["--registry", "embedded"]),
        (signal.SIGKILL, -signal.SIGKILL, []),
        (signal.SIGHUP, -signal.SIGHUP, ["--registry", "embedded"]),
    ],
    ids=["SIGTERM", "SIGINT", "SIGKILL", "SIGHUP"],
)
def test_a_signal_leaves_nothing(run: Run, temporary: Path, number: int, code: int, options: list[str]) -> None:
    """Whatever signal ends the parent, its servers end and its folder goes."""
    process = run(*options)
    description, kafka, registry = told(process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert description.startswith("Running Apache Kafka with")
    assert answering_cluster(kafka.partition("=")[2])
    assert answers(registry.partition("=")[2])

    process.send_signal(number)

    assert process.wait(30) == code
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert until(lambda: not list(temporary.iterdir()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_starting_leaves_nothing(run: Run, temporary: Path, number: int) -> None:
    """A parent that is ended before anything answers leaves nothing either."""
    process = run()
    assert until(lambda: len(javas(process.pid)) == 2)  # the registry starts, the storage is being formatted
    children = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(number)

    process.wait(30)
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert until(lambda: not list(temporary.iterdir()))


def test_an_exception_leaves_logs_in_a_given_folder(temporary: Path, tmp_path: Path) -> None:
    """In the caller's folder the logs stay and say something, the data and the processes go; other files are safe."""
    folder = tmp_path / "given"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "mine").write_text("mine")
    before = javas()

    with (
        pytest.raises(ZeroDivisionError),
        start_stack(broker="apache", registry="embedded", folder=folder) as stack,
    ):
        started = [process for process in javas() if process not in before]
        assert stack.logs == folder / "logs"
        _ = 1 / 0

    assert not psutil.wait_procs(started, timeout=0)[1]
    assert len(started) == 1
    assert "Kafka Server started" in (folder / "logs" / "kafka.log").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["data", "logs"]
    assert (folder / "data" / "mine").read_text() == "mine"
    assert list(temporary.iterdir()) == []


def test_a_registry_that_dies_takes_the_broker_along(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka is up, the registry ends while starting: its last words are the error, and nothing is left."""
    real = find_java(17).executable
    kafka_only = java(tmp_path / "old", "17.0.1", f'exec {shlex.quote(str(real))} "$@"')
    java(tmp_path / "new" / "one", "25", "echo the registry is broken; exit 1")
    monkeypatch.setenv("JAVA_HOME", str(kafka_only))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv(FOLDERS_VARIABLE, str(tmp_path / "new" / "*"))
    before = psutil.Process().children(recursive=True)

    with pytest.raises(StackError, match="Apicurio Registry ended while starting:\nthe registry is broken"):  # noqa: SIM117
        with start_stack(broker="apache", registry="apicurio"):
            pytest.fail("it cannot be up")

    assert set(psutil.Process().children(recursive=True)) <= set(before)
    assert list(temporary.iterdir()) == []


def test_a_port_that_is_taken_meanwhile_is_given_up(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes the broker's port between our choice and its start: it starts on another one."""
    real = find_java(17).executable
    # A Java that, the first time it is to run the broker, finds its port taken: it listens there itself.
    taken = tmp_path / "taken"
    thief = tmp_path / "thief.py"
    thief.write_text(
        "import pathlib, re, socket, sys, time\n"
        "port = int(re.search(r'PLAINTEXT://127.0.0.1:(\\d+)', pathlib.Path(sys.argv[1]).read_text())[1])\n"
        "listener = socket.create_server(('127.0.0.1', port))\n"
        f"pathlib.Path({str(taken)!r}).write_text(str(port))\n"
        "time.sleep(120)\n"
    )
    steal = f"{shlex.quote(sys.executable)} {shlex.quote(str(thief))}"
    home = java(
        tmp_path / "home",
        "17.0.1",
        f'for last; do :; done\ncase "$*" in *kafka.Kafka*) if [ ! -e {taken} ]; then\n'
        f'{steal} "$last" </dev/null >/dev/null 2>&1 &\n'
        f'while [ ! -s {taken} ]; do sleep 0.1; done; fi;; esac\nexec {shlex.quote(str(real))} "$@"',
    )
    monkeypatch.setenv("JAVA_HOME", str(home))

    with start_stack(broker="apache", registry="embedded") as stack:
        first, port = int(taken.read_text()), int(stack.bootstrap_servers.rpartition(":")[2])
        assert port != first
        assert is_taken(first)
        assert answering_cluster(stack.bootstrap_servers)
        for process in psutil.process_iter():
            if process.info is not None and str(thief) in _command(process):
                process.kill()
    assert until(lambda: not list(temporary.iterdir()))


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_killed_broker_comes_back_with_its_records(stack: Stack) -> None:
    """After SIGKILL and a restart the broker has the same address, its topics and every acknowledged record."""
    topic = f"t-{uuid.uuid4().hex}"
    settings = {"bootstrap.servers": stack.bootstrap_servers, "log_level": 0}
    AdminClient(settings).create_topics([NewTopic(topic, 1)])[topic].result(20)
    producer = Producer({**settings, "acks": "all"})
    for number in range(100):
        producer.produce(topic, b"%d" % number)
    assert producer.flush(20) == 0
    port = int(stack.bootstrap_servers.rpartition(":")[2])

    stack.kill_broker()
    assert until(lambda: not is_taken(port), 5)
    stack.restart_broker()

    consumer = Consumer({**settings, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        values = [message.value() for message in consumer.consume(100, timeout=30)]
    finally:
        consumer.close()
    assert values == [b"%d" % number for number in range(100)]


def test_servers_listen_on_this_machine_only(stack: Stack) -> None:
    """No server can be reached from outside, on whatever port."""
    listening = [
        connection.laddr
        for process in javas()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]

    assert stack.broker == "apache"
    assert len(listening) >= 4
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert os.environ.get("FLEETCAST_BOOTSTRAP_SERVERS") != stack.bootstrap_servers
