"""Everything on this machine: a dev stack, and the same commands that a user would type, as processes of their own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from devstack import Stack, StackError, start_stack
from schemas.contract import Contract
from schemas.errors import FleetcastError, UnreachableError
from schemas.records import forecast_schema, step_schema
from schemas.registry import Registry
from schemas.topics import Topics, connect, create, touch

_READY_SECONDS = 120
_DRAIN_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What to bring up. ``seconds``: how long after the consumer is ready; None: until stopped."""

    broker: str
    registry: str
    seconds: float | None
    model: str
    servers: int
    start: str
    speed: str
    scenario: str
    http_port: int
    contract: Contract
    contract_file: Path | None


def run(plan: Plan, stop: threading.Event) -> None:
    """Bring all of it up, print forecasts until ``stop`` or the time is over, and take it down again.

    Raises:
        FleetcastError: a part failed, or the time is over and no forecast came.
    """
    try:
        with ExitStack() as parts:
            stack = parts.enter_context(start_stack(broker=plan.broker, registry=plan.registry))
            click.echo(stack.description, err=True)
            _prepare(stack, plan.contract)
            _run_on(stack, plan, stop, parts)
    except StackError as error:
        raise UnreachableError(str(error)) from None


def _prepare(stack: Stack, contract: Contract) -> None:
    """Topics and schemas."""
    topics, kafka = Topics(), {"bootstrap.servers": stack.bootstrap_servers}
    admin = connect(kafka)
    touch(admin, topics) if stack.broker == "embedded" else create(admin, topics)
    registry = Registry(stack.registry_url)
    registry.register(topics.metrics, contract.schema)
    registry.register(topics.steps, step_schema(contract))
    registry.register(topics.forecasts, forecast_schema())


def _run_on(stack: Stack, plan: Plan, stop: threading.Event, parts: ExitStack) -> None:
    logs = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="fleetcast-up-")))
    port = plan.http_port or _free_port()
    environment = {
        **os.environ,
        "FLEETCAST_BOOTSTRAP_SERVERS": stack.bootstrap_servers,
        "FLEETCAST_REGISTRY_URL": stack.registry_url,
    }
    if plan.contract_file is not None:
        environment["FLEETCAST_CONTRACT"] = str(plan.contract_file.absolute())
    tail = Printed()
    with (
        _child("tail", ["tail"], environment, logs, tail),
        _child("consume", ["consume", "--model", plan.model, "--http-port", str(port)], environment, logs) as consume,
        _child(
            "simulate",
            ["simulate", "--servers", str(plan.servers), f"--start={plan.start}", "--speed", plan.speed,
             "--scenario", plan.scenario],
            environment, logs,
        ) as simulate,
    ):  # fmt: skip
        children = [consume, simulate]
        click.echo(f"{plan.servers} servers from {plan.start}, speed {plan.speed}; waiting for the consumer", err=True)
        _wait_ready(port, children, stop)
        tail.print_from_now()
        click.echo(
            f"ready: Kafka {stack.bootstrap_servers}, registry {stack.registry_url}, "
            f"health http://127.0.0.1:{port}/status", err=True,
        )  # fmt: skip
        _wait_end(plan.seconds, children, stop)
    click.echo(f"{tail.printed} forecasts shown", err=True)
    if not tail.printed and plan.seconds is not None:
        raise FleetcastError(f"no forecast came within {plan.seconds:g} s of the consumer's readiness")


class Printed:
    """Lines of a child's output: shown once asked for, and counted."""

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self.printed = 0
        self._shown = threading.Event()

    def print_from_now(self) -> None:
        """Show what comes from here on."""
        self._shown.set()

    def line(self, text: str) -> None:
        """One line of the child."""
        if self._shown.is_set():
            self.printed += 1
            click.echo(text, nl=False)
            sys.stdout.flush()


class Child:
    """A command of ours in a process of its own."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", log: Path) -> None:
        """``log`` is where its stderr goes."""
        self.name, self.process, self.log = name, process, log

    def check(self) -> None:
        """See that it has not failed.

        Raises:
            FleetcastError: it has; with the end of its log.
        """
        code = self.process.poll()
        if code not in (None, 0):
            end = "\n  ".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise FleetcastError(f"{self.name} ended with {code}:\n  {end}")


@contextmanager
def _child(
    name: str, arguments: list[str], environment: dict[str, str], logs: Path, output: Printed | None = None
) -> Iterator[Child]:
    """Run a command; at the end ask it to stop, and insist after a while."""
    log = logs / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "fleetcast", *arguments],
            env=environment, stdin=subprocess.DEVNULL, stderr=errors, text=True, encoding="utf-8",
            stdout=subprocess.PIPE if output else errors,
            start_new_session=True,  # Ctrl-C is ours to hand on, in order
        )  # fmt: skip
    reader = threading.Thread(target=_copy, args=(process, output), daemon=True) if output else None
    if reader:
        reader.start()
    try:
        yield Child(name, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if reader:
            reader.join(5)


def _copy(process: "subprocess.Popen[str]", output: Printed) -> None:
    if process.stdout is not None:
        for line in process.stdout:
            output.line(line)


def _wait_ready(port: int, children: list[Child], stop: threading.Event) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not stop.is_set():
        for child in children:
            child.check()
        if _ready(port):
            return
        if time.monotonic() > deadline:
            raise FleetcastError(f"the consumer was not ready within {_READY_SECONDS} s")
        stop.wait(0.2)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait_end(seconds: float | None, children: list[Child], stop: threading.Event) -> None:
    deadline = None if seconds is None else time.monotonic() + seconds
    while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
        for child in children:
            child.check()
        stop.wait(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
