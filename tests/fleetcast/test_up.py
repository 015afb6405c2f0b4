import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from models.artifact import Model
from models.samples import History
from schemas.contract import Contract
from tests.models.conftest import events, random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    contract = Contract.load()
    made: Model = random_model(
        contract, History(contract, events(contract, servers=3, steps=160)), tmp_path_factory.mktemp("up")
    )
    return Path(made.metadata["folder"])


def start(model: Path, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "fleetcast", "up", "--broker", "embedded", "--registry", "embedded",
               "--servers", "3", "--model", str(model), *arguments]  # fmt: skip
    environment = {
        **os.environ, "TMPDIR": str(folder), "FLEETCAST_ENGINE": "llvm", "XDG_CACHE_HOME": str(model.parent),
    }  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_without_java_forecasts_arrive_and_nothing_stays(model: Path, tmp_path: Path) -> None:
    """On the embedded pair `up` prints forecasts, ends by itself with exit 0, and leaves neither process nor file."""
    with start(model, tmp_path, "--seconds", "12") as process:
        out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    lines = [line for line in out.splitlines() if re.search(r"cpu -?\d", line)]
    assert len(lines) >= 3
    assert "embedded broker, in memory and at least once" in err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_takes_everything_down(model: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle ends all of its processes."""
    with start(model, tmp_path) as process:
        for line in process.stderr or ():
            if line.startswith("ready:"):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 0
    assert [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Without its model nothing runs: the consumer's reason is shown, exit not 0, and nothing stays."""
    with start(tmp_path / "nowhere", tmp_path, "--seconds", "5") as process:
        _, err = process.communicate(timeout=90)

    assert process.returncode != 0
    assert "there is no model folder" in err
    assert list(tmp_path.iterdir()) == []


def until_ready(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Wait for its word; its descendants."""
    said = []
    for line in process.stderr or ():
        if line.startswith("ready:"):
            return psutil.Process(process.pid).children(recursive=True)
        said.append(line)
    raise AssertionError("it ended before it was ready: " + "".join(said))


def test_killed_it_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """SIGKILL gives `up` no chance to end its parts: they end by themselves, and their files go."""
    with start(model, tmp_path) as process:
        children = until_ready(process)
        assert {"tail", "consume", "simulate"} <= {word for c in children for word in c.cmdline()}
        process.kill()
        process.communicate(timeout=60)
        left = psutil.wait_procs(children, timeout=30)[1]

    assert [c for c in left if c.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["tail", "consume"])
def test_a_part_that_ends_is_a_failure(model: Path, tmp_path: Path, part: str) -> None:
    """A part that ends by itself, and be it in order, is told; all the others are taken down."""
    with start(model, tmp_path) as process:
        children = until_ready(process)
        (victim,) = (c for c in children if part in c.cmdline() and "guard.py" not in " ".join(c.cmdline()))
        victim.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert f"error: {part} ended with 0" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_stop_while_it_waits(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    """It unwinds without having claimed to be ready, and that is no failure, --seconds or not."""
    with start(model, tmp_path, "--seconds", "60") as process:
        for line in process.stderr or ():
            if "waiting for the consumer" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert "ready:" not in err
    assert [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_about_another_stack_does_not_reach_the_parts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Addresses and topic names of FLEETCAST_CONFIG are not for the stack that `up` starts; its own options are."""
    config, folder = tmp_path / "fleetcast.toml", tmp_path / "scratch"
    folder.mkdir()
    config.write_text("[up]\nseconds = 8\n[kafka]\n'bootstrap.servers' = 'nowhere:1'\n[topics]\nforecasts = 'other'\n")
    monkeypatch.setenv("FLEETCAST_CONFIG", str(config))

    with start(model, folder) as process:
        out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    assert "  memory " in out
