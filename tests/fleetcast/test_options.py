"""Where a setting comes from: flags, environment, file, default; and what a file may say."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fleetcast.__main__ import cli
from fleetcast.options import Common, common

BROKER = "bootstrap.servers"


@click.group()
def root() -> None:
    """A command line of its own, with commands that show what they got."""


@root.command()
@click.option("--model", "model_name", default="latest")
@click.option("--group-id", default="fleetcast")
@click.option("--json", "as_json", is_flag=True)
@common
def consume(**given: Any) -> None:
    GIVEN.append(given)


@root.group()
def topics() -> None:
    """As in the real one."""


@topics.command()
@click.option("--partitions", type=int, default=6)
@common
def create(**given: Any) -> None:
    GIVEN.append(given)


GIVEN: list[dict[str, Any]] = []


def parsed(file: Path, toml: str, *arguments: str, command: tuple[str, ...] = ("consume",)) -> dict[str, Any]:
    file.write_text(toml)
    result = CliRunner().invoke(root, [*command, "--config", str(file), *arguments])
    assert result.exit_code == 0, result.output
    return GIVEN.pop()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FLEETCAST_BOOTSTRAP_SERVERS", raising=False)
    return tmp_path / "fleetcast.toml"


@pytest.mark.parametrize(
    ("toml", "environment", "flags", "winner"),
    [
        ("", None, [], "localhost:9092"),
        ("[kafka]\n'bootstrap.servers' = 'file:1'", None, [], "file:1"),
        ("bootstrap-servers = 'file:1'", None, [], "file:1"),
        ("bootstrap-servers = 'file:1'\n[kafka]\n'bootstrap.servers' = 'table:1'", None, [], "file:1"),
        ("[kafka]\n'bootstrap.servers' = 'file:1'", "env:1", [], "env:1"),
        ("bootstrap_servers = 'file:1'", "env:1", [], "env:1"),
        ("[kafka]\n'bootstrap.servers' = 'file:1'", "env:1", ["-X", f"{BROKER}=x:1"], "x:1"),
        ("bootstrap-servers = 'file:1'", None, ["-X", f"{BROKER}=x:1"], "x:1"),
        ("", None, ["-X", f"{BROKER}=x:1"], "x:1"),
        ("[kafka]\n'bootstrap.servers' = 'file:1'", "env:1", ["--bootstrap-servers", "flag:1"], "flag:1"),
        ("", None, ["--bootstrap-servers", "flag:1", "-X", f"{BROKER}=x:1"], "flag:1"),
    ],
)
def test_who_names_the_broker(file: Path, toml: str, environment: str | None, flags: list[str], winner: str) -> None:
    """Flags beat -X beats the environment beats the file beats the default."""
    with pytest.MonkeyPatch.context() as patch:
        if environment:
            patch.setenv("FLEETCAST_BOOTSTRAP_SERVERS", environment)
        given = parsed(file, toml, *flags)

    assert given["common"].kafka[BROKER] == winner


def test_properties_merge_by_key(file: Path) -> None:
    """One -X replaces one property of the file; the others stay. Quotes around a name may be left out."""
    toml = "[kafka]\nsocket.timeout.ms = 1000\n'enable.idempotence' = true\n'client.id' = 'file'"

    kafka = parsed(file, toml, "-X", "client.id=flag", "-X", "linger.ms=5")["common"].kafka

    assert kafka == {
        BROKER: "localhost:9092", "socket.timeout.ms": "1000", "enable.idempotence": "true", "client.id": "flag",
        "linger.ms": "5",
    }  # fmt: skip


def test_keys_are_option_names(file: Path) -> None:
    """As typed on the command line, whatever the parameter behind is called; a command's table beats the top level."""
    toml = "model = 'top'\npartitions = 3\ncontract = 'c.avsc'\n[consume]\nmodel = 'own'\ngroup_id = 'g'\njson = true"

    given = parsed(file, toml)

    assert (given["model_name"], given["group_id"], given["as_json"]) == ("own", "g", True)
    assert given["common"].contract_file == Path("c.avsc")
    assert parsed(file, toml, "--model", "flag")["model_name"] == "flag"


def test_a_nested_command_has_a_table(file: Path) -> None:
    """Its name is as typed, in quotes; [topics] stays the table of names."""
    toml = '["topics create"]\npartitions = 3\n[topics]\nmetrics = "m"'

    given = parsed(file, toml, command=("topics", "create"))

    assert given["partitions"] == 3
    assert given["common"].topics().metrics == "m"
    assert given["common"].topics().steps == "server-metrics.steps"


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ('kafka = "x"', "kafka: it must be a table"),
        ('topics = "x"', "topics: it must be a table"),
        ("consume = 5", "consume: it must be a table"),
        ("create = 5", "no option 'create'"),
        ("modell = 'x'", "no option 'modell'"),
        ("model_name = 'x'", "no option 'model_name'"),
        ("config = 'x'", "no option 'config'"),
        ("[consumee]", "[consumee] is no command"),
        ("[topics.create]\npartitions = 1", "[topics] create"),
        ("[consume]\nserverz = 1", "[consume] serverz"),
        ('["topics create"]\nserverz = 1', '["topics create"] serverz'),
        ("[consume]\nmodel = ['x']", "[consume] model"),
        ("[topics]\nmetric = 'x'", "[topics] metric"),
        ("[topics]\nmetrics = 5", "[topics] metrics"),
        ("[kafka]\nx = [1]", "[kafka] x"),
        ("[kafka]\nerror_cb = 'x'", "error_cb cannot be set"),
        ("= 5", "is not TOML"),
    ],
)
def test_what_a_file_may_not_say(file: Path, toml: str, named: str) -> None:
    """Typos and wrong types are named, in tables of other commands too; nothing of them passes silently."""
    file.write_text(toml)

    result = CliRunner().invoke(root, ["consume", "--config", str(file)])

    assert result.exit_code == 2
    assert named in result.output
    assert str(file) in result.output or "_cb" in named


def test_every_option_of_every_command_may_stand_in_a_file(file: Path) -> None:
    """The names in --help are the names of the file, for the real commands."""
    toml = "data = 'd'\nmodel = 'm'\njson = true\nmapping = 'x.toml'\nuntil-idle = 3\nlog-level = 'error'"
    file.write_text(f"{toml}\n[train]\ndata = 'nowhere'\n[generate]\nservers = 0")

    trained = CliRunner().invoke(cli, ["train", "--config", str(file)])
    generated = CliRunner().invoke(cli, ["generate", "--config", str(file), "--output", "x"])

    assert "x.toml" in str(trained.exception)
    assert "Invalid value for '--servers'" in generated.output


@pytest.mark.parametrize("item", ["nonsense", "=1", "error_cb=x", "logger=x"])
def test_what_is_no_property(item: str) -> None:
    """It is refused before anything connects."""
    result = CliRunner().invoke(root, ["consume", "-X", item])

    assert result.exit_code == 2
    assert item.partition("=")[0] in result.output


def test_passwords_do_not_show() -> None:
    """Neither those of properties nor that of the registry's URL."""
    kafka = {"sasl.password": "p1", "ssl.key.pem": "p2", "sasl.oauthbearer.client.secret": "p3", BROKER: "b:1"}

    shown = repr(Common(kafka, "http://user:p4@registry:8081/x", None, {}))

    assert not {"p1", "p2", "p3", "p4"} & set(shown.replace("'", " ").replace(":", " ").replace("@", " ").split())
    assert "b:1" in shown
    assert "//user:***@registry:8081/x" in shown
