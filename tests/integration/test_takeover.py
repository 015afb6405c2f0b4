"""A member that is killed, and who goes on: real processes, a real broker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from models.artifact import Model
from schemas.contract import Contract
from tests.integration.conftest import Stream
from tests.integration.test_service import small
from tests.models.conftest import events

pytestmark = pytest.mark.integration
START_SECONDS = 60


class Member:
    """``consume`` in a process of its own."""

    def __init__(self, stream: Stream, model: Model, folder: Path, instance: str) -> None:
        names = {"metrics": "", "steps": ".steps", "forecasts": ".forecasts", "scores": ".scores", "dlq": ".dlq"}
        config = folder / "fleetcast.toml"
        config.write_text("\n".join(["[topics]", *(f'{k} = "{stream.topics.metrics}{v}"' for k, v in names.items())]))
        contract = folder / "contract.avsc"
        contract.write_text(json.dumps(stream.contract.schema))
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "FLEETCAST_ENGINE": "llvm"}
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "fleetcast", "consume", "--model", model.metadata["folder"],
                "--contract", str(contract), "--config", str(config), "--http-port", "0",
                "--group-id", f"{stream.topics.metrics}.test", "--instance-id", instance,
                "--bootstrap-servers", stream.stack.bootstrap_servers, "--registry-url", stream.stack.registry_url,
            ],
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.seen: dict[str, float] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            said = json.loads(line) if line.startswith("{") else {"event": line}
            self.seen.setdefault(str(said["event"]), time.monotonic())

    def wait_for(self, event: str) -> float:
        """When its log said so."""
        deadline = time.monotonic() + START_SECONDS
        while event not in self.seen:
            assert self.process.poll() is None, "it ended"
            assert time.monotonic() < deadline, f"no {event!r} within {START_SECONDS} s; it said {list(self.seen)}"
            time.sleep(0.02)
        return self.seen[event]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.mark.timeout(300)  # four starts of a process that loads torch
def test_the_same_instance_goes_on_at_once(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model], tmp_path: Path
) -> None:
    """Killed and started again, a member has its partitions back before its former session ends (6 s here)."""
    contract = small()
    stream, model = make_stream(contract), make_small_model(contract)
    stream.publish(events(contract, servers=3, steps=30, missing=0))
    first = Member(stream, model, tmp_path, "one")
    first.wait_for("caught up")
    first.end(signal.SIGKILL)

    second = Member(stream, model, tmp_path, "one")
    taken = second.wait_for("partitions assigned") - second.wait_for("consuming starts")

    assert "the former life of this member left the group" in second.seen
    assert taken < 3
    second.wait_for("caught up")
    assert second.end(signal.SIGTERM) == 0
    third = Member(stream, model, tmp_path, "one")
    third.wait_for("caught up")
    assert "the former life of this member left the group" not in third.seen, "that one left in order"
    assert third.end(signal.SIGTERM) == 0
    steps = [(s.key, s.value["step_start"]) for s in stream.read(stream.topics.steps)]
    assert len(steps) == len(set(steps)) > 0


@pytest.mark.timeout(300)
def test_two_processes_of_one_host_cannot_be_one_instance(
    make_stream: Callable[..., Stream], make_small_model: Callable[[Contract], Model], tmp_path: Path
) -> None:
    """The second one with an id that lives is refused with exit code 2; the first goes on."""
    contract = small()
    stream, model = make_stream(contract), make_small_model(contract)
    first = Member(stream, model, tmp_path, "one")
    first.wait_for("consuming starts")

    assert Member(stream, model, tmp_path, "one").process.wait(START_SECONDS) == 2
    assert first.end(signal.SIGTERM) == 0
