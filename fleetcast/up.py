"""Everything on this machine: a dev stack, and the same commands that a user would type, as processes of their own."""

import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import click

from devstack import Stack, StackError, start_stack
from devstack.janitor import Scratch, scratch_folder
from fleetcast.children import Child, child
from schemas.contract import Contract
from schemas.errors import FleetcastError, UnreachableError
from schemas.records import forecast_schema, step_schema
from schemas.registry import Registry
from schemas.topics import Topics, connect, create, touch

_READY_SECONDS = 300  # a busy machine catches up slowly


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
        with start_stack(broker=plan.broker, registry=plan.registry) as stack, scratch_folder(None) as scratch:
            click.echo(stack.description, err=True)
            if not stop.is_set():
                _prepare(stack, plan.contract)
                _run_on(stack, plan, stop, scratch)
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


def _run_on(stack: Stack, plan: Plan, stop: threading.Event, scratch: Scratch) -> None:
    port, environment, shown = plan.http_port or _free_port(), _environment(stack, plan), Printed()
    simulate = ["simulate", "--servers", str(plan.servers), f"--start={plan.start}", "--speed", plan.speed,
                "--scenario", plan.scenario]  # fmt: skip
    # librdkafka's own broker isolates no transactions.
    guarantee = "exactly_once" if stack.transactional else "at_least_once"
    consume_command = ["consume", "--model", plan.model, "--http-port", str(port), "--processing-guarantee", guarantee]
    with (
        child(["tail"], environment, scratch, output=shown.line) as tail,
        child(consume_command, environment, scratch) as consume,
        child(simulate, environment, scratch, may_end=True) as simulator,
    ):
        children = [consume, simulator, tail]
        click.echo(f"{plan.servers} servers from {plan.start}, speed {plan.speed}; waiting for the consumer", err=True)
        if not _wait_ready(port, children, stop):
            return
        shown.print_from_now()
        click.echo(
            f"ready: Kafka {stack.bootstrap_servers}, registry {stack.registry_url}, "
            f"health http://127.0.0.1:{port}/status", err=True,
        )  # fmt: skip
        _wait_end(plan.seconds, children, stop)
    click.echo(f"{shown.printed} forecasts shown", err=True)
    if not shown.printed and plan.seconds is not None and not stop.is_set():
        raise FleetcastError(f"no forecast came within {plan.seconds:g} s of the consumer's readiness")


def _environment(stack: Stack, plan: Plan) -> dict[str, str]:
    """The children's: this stack, its topics and nothing of a file that is about another."""
    environment = {
        **os.environ,
        "FLEETCAST_BOOTSTRAP_SERVERS": stack.bootstrap_servers,
        "FLEETCAST_REGISTRY_URL": stack.registry_url,
    }
    environment.pop("FLEETCAST_CONFIG", None)
    if plan.contract_file is not None:
        environment["FLEETCAST_CONTRACT"] = str(plan.contract_file.absolute())
    return environment


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


def _wait_ready(port: int, children: list[Child], stop: threading.Event) -> bool:
    """Whether the consumer is ready; False where a stop was asked for first."""
    deadline = time.monotonic() + _READY_SECONDS
    while not stop.is_set():
        for part in children:
            part.check()
        if _ready(port):
            return not stop.is_set()
        if time.monotonic() > deadline:
            raise FleetcastError(f"the consumer was not ready within {_READY_SECONDS} s")
        stop.wait(0.2)
    return False


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait_end(seconds: float | None, children: list[Child], stop: threading.Event) -> None:
    deadline = None if seconds is None else time.monotonic() + seconds
    while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
        for part in children:
            part.check()
        stop.wait(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
