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
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}
    )


def test_without_java_forecasts_arrive_and_nothing_stays(model: Path, tmp_path: Path) -> None:
    """On the embedded pair `up` prints forecasts, ends by itself with exit 0, and leaves neither process nor file."""
    with start(model, tmp_path, "--seconds", "12") as process:
        out, err = process.communicate(timeout=120)

    assert process.returncode == 0, err
    lines = [line for line in out.splitlines() if re.search(r"cpu_percent -?\d", line)]
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
