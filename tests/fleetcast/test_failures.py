"""How a command ends when it cannot do what was asked: one sentence, no traceback, and an exit code."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from devstack import start_stack
from fleetcast.__main__ import main
from fleetcast.failures import explain
from fleetcast.masking import mask, mask_event


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", [["tail"], ["topics", "create"]])
@pytest.mark.parametrize(("item", "named"), [("nonsense=1", "nonsense"), ("socket.timeout.ms=x", "socket.timeout.ms")])
def test_a_property_that_librdkafka_refuses(
    capsys: pytest.CaptureFixture[str], command: list[str], item: str, named: str
) -> None:
    """Exit 2, and its name."""
    code, told = ended(capsys, *command, "-X", item)

    assert code == 2
    assert told.startswith("error: ")
    assert f'"{named}"' in told


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--data", "x", "--seed", "-1"], "--seed"),
        (["train", "--data", "x", "--seed", "4294967296"], "--seed"),
        (["train", "--data", "x", "--learning-rate", "nan"], "--learning-rate"),
        (["train", "--data", "x", "--learning-rate", "inf"], "--learning-rate"),
        (["generate", "--output", "x", "--hours", "inf"], "--hours"),
        (["generate", "--output", "x", "--hours", "1e300"], "--hours"),
        (["generate", "--output", "x", "--interval", "nan"], "--interval"),
        (["generate", "--output", "x", "--start", "+999999999999d"], "--start"),
        (["simulate", "--until", "0001-01-01"], "--until"),
        (["consume", "--until-idle", "nan"], "--until-idle"),
        (["up", "--seconds", "inf"], "--seconds"),
    ],
)
def test_numbers_that_are_none(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    """Exit 2, and the option."""
    code, told = ended(capsys, *arguments)

    assert code == 2
    assert f"Invalid value for '{named}'" in told


@pytest.mark.parametrize("command", [["generate", "--hours", "1", "--servers", "1"], ["train", "--data", "nowhere"]])
def test_an_output_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    """Exit 2 with the path, before any work is lost."""
    (tmp_path / "file").touch()

    code, told = ended(capsys, *command, "--output", str(tmp_path / "file" / "folder"))

    assert code == 2
    assert told.startswith("error: ")
    assert str(tmp_path / "file") in told


def test_passwords_of_urls_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    """In errors of ours and of libraries, in usage errors and in logs; and what is no password stays."""
    code, told = ended(capsys, "schemas", "check", "--registry-url", "http://me:hunter2@127.0.0.1:1")
    assert (code, "hunter2" in told, "me:***@127.0.0.1:1" in told) == (4, False, True)

    code, told = ended(capsys, "schemas", "check", "--registry-url", "http://me:hun/ter2@127.0.0.1:1")
    assert (code, "ter2" in told) == (2, False)

    code, told = ended(capsys, "tail", "--count", "http://me:hunter2@x")
    assert (code, "hunter2" in told) == (2, False)

    code, told = ended(capsys, "tail", "-X", "sasl.password:hunter2")
    assert (code, "hunter2" in told) == (2, False)

    assert mask_event(None, "info", {"url": "https://a:b@c/", "n": 1}) == {"url": "https://a:***@c/", "n": 1}
    assert mask("http://host:8081/apis and user@example.org") == "http://host:8081/apis and user@example.org"


class Settings(BaseModel):
    steps: int


def test_what_is_explained() -> None:
    """A value that a model of ours refuses, and a file that the system refuses; anything else is a bug."""
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"steps": "many"})
    told = explain(refused.value)
    assert told is not None
    assert (told.exit_code, told.reason.startswith("steps = 'many': ")) == (2, True)

    told = explain(FileNotFoundError(2, "No such file or directory", "/x"))
    assert told is not None
    assert (told.exit_code, told.reason) == (2, "/x: No such file or directory")

    assert explain(ZeroDivisionError()) is None
    assert explain(OSError("no path in it")) is None


def test_lists_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The schema commands have JSON for scripts; null means that nothing is registered."""
    with start_stack(broker="embedded", registry="embedded") as stack:
        where = ["--registry-url", stack.registry_url, "--json"]
        with pytest.raises(SystemExit):
            main(["schemas", "check", *where])
        checked = json.loads(capsys.readouterr().out)
        with pytest.raises(SystemExit):
            main(["schemas", "register", *where])
        registered = json.loads(capsys.readouterr().out)
        with pytest.raises(SystemExit):
            main(["schemas", "check", *where])
        again = json.loads(capsys.readouterr().out)

    assert [s["subject"] for s in checked] == ["server-metrics-value", "server-metrics.steps-value", "forecasts-value"]
    assert {s["compatible"] for s in checked} == {None}
    assert [s["subject"] for s in registered] == [s["subject"] for s in checked]
    assert {(s["compatible"], tuple(s["reasons"])) for s in again} == {(True, ())}
