"""The examples: what their pages tell people to type is understood, and their data reach the model."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest

from fleetcast.__main__ import cli
from models.layout import Layout
from models.samples import History
from schemas.contract import Contract
from schemas.history import read_history
from schemas.registry import avro

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "examples").glob("*/README.md"))
CONTRACTS = sorted((ROOT / "examples").glob("*/*.avsc"))
SMD = ROOT / "examples" / "smd"
HOURS = 26  # a day, and something whose lag it is


def lines(page: Path) -> list[list[str]]:
    """Every line that a page tells people to type, as words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    typed = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in typed if (words := shlex.split(line, comments=True))]


COMMANDS = [
    pytest.param(words[1:], id=f"{page.parent.name}: {' '.join(words[1:3])}")
    for page in PAGES
    for words in lines(page)
    if words[0] == "fleetcast"
]


def understood(words: list[str]) -> click.Context:
    """The words as click reads them; nothing runs."""
    command: click.Command = cli
    context = click.Context(command, info_name="fleetcast")
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=name)
    return command.make_context(name, list(words), parent=context)


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of an example's page is one that the command line understands, with its contract and its topics."""
    monkeypatch.chdir(ROOT)
    context = understood(words)

    contract = context.params["contract_file"]
    assert contract is not None, "an example never means the shipped contract"
    assert contract in {file.relative_to(ROOT) for file in CONTRACTS}


def test_a_wrong_command_would_be_noticed() -> None:
    """What is parsed is parsed in earnest: an option that does not exist is refused."""
    with pytest.raises(click.UsageError, match="--no-such-option"):
        understood(["topics", "create", "--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_page_goes_all_the_way(page: Path) -> None:
    """From the schema to forecasts: each step has its command on the page."""
    typed = {" ".join(words[1:3]) if words[1] in ("topics", "schemas") else words[1] for words in lines(page)}

    assert {"schemas register", "topics create", "train", "evaluate", "replay", "consume", "tail"} <= typed
    scripts = [word for words in lines(page) for word in words if word.endswith(".py")]
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("file", CONTRACTS, ids=lambda file: file.stem)
def test_a_contract_loads(file: Path) -> None:
    """An example's contract is one: it has targets, a model can be laid out for it, and a registry can hold it."""
    contract = Contract.load(file)

    assert Layout(contract).targets
    assert avro(contract.schema).schema_type == "AVRO"


def test_a_day_of_real_servers_reaches_the_model(smd_servers: Path, tmp_path: Path) -> None:
    """Rows of the real servers become windows, and the known lag of a target is its value a day before."""
    contract = Contract.load(SMD / "server_sample.avsc")
    frame = pd.read_parquet(smd_servers)
    frame = frame[frame.timestamp < frame.timestamp.min() + pd.Timedelta(hours=HOURS)]
    frame.to_parquet(tmp_path / "day.parquet")
    history = History(contract, read_history([tmp_path / "day.parquet"], contract))
    settings = contract.settings
    last = history.samples.take(history.samples.step == history.samples.step.max())
    windows = history.windows(last)

    assert history.refused == {}
    servers = frame.server_id.nunique()
    assert len(history.samples) == servers * (HOURS * 60 - 1 - settings.min_encoder_steps)  # the last minutes are open
    assert windows.reals.shape == (servers, settings.encoder_steps, len(contract.targets))
    assert (windows.lengths == settings.encoder_steps).all()
    day_before = windows.last_step + 1 - settings.season_steps
    for row, slot in enumerate(last.slot):
        mine = frame[frame.server_id == history.keys[slot]]
        then = pd.Timestamp(int(day_before[row]) * contract.step_ms, unit="ms", tz="UTC")
        values = mine[mine.timestamp == then][[f.name for f in contract.targets]].to_numpy()[0]
        np.testing.assert_allclose(windows.lag[row, settings.encoder_steps], values, rtol=1e-6)


def test_the_sources_text_files_become_the_contracts_columns(tmp_path: Path) -> None:
    """``prepare.py`` reads the data set as it is downloaded: columns by place, halves joined, a row a minute."""
    rng = np.random.default_rng(0)
    machines = ("1-6", "1-7", "2-1", "2-2", "2-7", "2-8", "3-3", "3-4")
    source = tmp_path / "ServerMachineDataset"
    rows = rng.random((len(machines), 2, 2000, 38)).round(4)
    for half, name in enumerate(("train", "test")):
        (source / name).mkdir(parents=True)
        for i, machine in enumerate(machines):
            np.savetxt(source / name / f"machine-{machine}.txt", rows[i, half], delimiter=",", fmt="%.4f")
    script = [sys.executable, str(SMD / "prepare.py"), str(source), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    contract = Contract.load(SMD / "server_sample.avsc")
    events = read_history([tmp_path / "all.parquet"], contract)
    assert len(events) == 4000 * len(machines)
    assert len(set(np.unique(np.diff(events.time[events.keys == "smd-machine-2-1"])))) == 1
    mine = events.reals[events.keys == "smd-machine-2-1"]
    np.testing.assert_allclose(mine, rows[2].reshape(-1, 38)[:, [0, 1, 12]] * 100)
    trained, last = (read_history([tmp_path / f"{name}.parquet"], contract) for name in ("before", "last"))
    assert trained.time.max() < events.time.max() - 0.2 * np.ptp(events.time)
    assert np.ptp(last.time) == 27 * 3_600_000 - 60_000
