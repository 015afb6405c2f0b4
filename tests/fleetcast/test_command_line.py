import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleetcast.__main__ import cli, main
from fleetcast.times import parse_time

NOW_MS = 1_767_571_200_000


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fleetcast", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**environment}, timeout=60, check=False)


def test_help_imports_nothing_heavy() -> None:
    """`fleetcast --help` answers at once: torch, pandas, pydantic and the Kafka client stay unimported."""
    code = (
        "import sys; import fleetcast.__main__; "
        "print({'torch', 'pandas', 'numpy', 'pydantic', 'confluent_kafka', 'structlog'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_every_command_of_the_design_is_there() -> None:
    """The names that are checked from outside."""
    assert set(cli.commands) >= {
        "generate", "train", "evaluate", "forecast", "model", "topics", "schemas", "simulate", "replay", "consume",
        "tail", "up",
    }  # fmt: skip
    for name, command in cli.commands.items():
        assert command.get_short_help_str(), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-25h", NOW_MS - 25 * 3_600_000),
        (" -25h ", NOW_MS - 25 * 3_600_000),
        ("+90s", NOW_MS + 90_000),
        ("-1.5d", NOW_MS - 129_600_000),
        ("2026-01-05T00:00:00Z", NOW_MS),
        ("2026-01-05", NOW_MS),
        ("2026-01-05T01:00:00+01:00", NOW_MS),
        ("now", NOW_MS),
    ],
)
def test_times(text: str, expected: int) -> None:
    """ISO times, naive ones in UTC, and offsets from now."""
    assert parse_time(text, lambda: NOW_MS) == expected


def test_an_offset_may_follow_a_space() -> None:
    """`--start -25h` is a value, not an option; a wrong time is named."""
    good = CliRunner().invoke(cli, ["generate", "--start", "-25h", "--hours", "0", "--output", "x"])
    bad = CliRunner().invoke(cli, ["generate", "--start", "yesterday", "--output", "x"])

    assert "--hours" in good.output, "only the hours are complained of"
    assert "'yesterday' is neither an ISO time nor an offset" in bad.output
    assert (good.exit_code, bad.exit_code) == (2, 2)


def test_flags_beat_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry that is asked tells which of the three addresses won."""
    config = tmp_path / "fleetcast.toml"
    config.write_text('registry_url = "http://127.0.0.1:3"\n[kafka]\n"socket.timeout.ms" = 1000\n')

    def asked(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["schemas", "check", "--config", str(config), *arguments])
        assert ended.value.code == 4
        return capture()

    def capture() -> str:
        result = CliRunner().invoke(cli, ["schemas", "check", "--config", str(config), *extra])
        return str(result.exception)

    extra: list[str] = []
    assert "127.0.0.1:3" in asked()
    monkeypatch.setenv("FLEETCAST_REGISTRY_URL", "http://127.0.0.1:2")
    assert "127.0.0.1:2" in asked()
    extra = ["--registry-url", "http://127.0.0.1:1"]
    assert "127.0.0.1:1" in asked(*extra)


def test_a_misspelt_option_in_the_file_is_named(tmp_path: Path) -> None:
    """A table named like a command takes that command's options only."""
    config = tmp_path / "fleetcast.toml"
    config.write_text("[generate]\nserverz = 3\n")

    result = CliRunner().invoke(cli, ["generate", "--config", str(config), "--output", "x"])

    assert result.exit_code == 2
    assert "'serverz'" in result.output


def test_nobody_answers_is_exit_4(tmp_path: Path) -> None:
    """A registry or broker out of reach is said in one line, without a traceback."""
    done = run("simulate", "--registry-url", "http://127.0.0.1:1", HOME=str(tmp_path))

    assert done.returncode == 4
    assert done.stderr.startswith("error: no registry answers at http://127.0.0.1:1")
    assert "Traceback" not in done.stderr


def test_a_bad_contract_is_exit_2(tmp_path: Path) -> None:
    """The field and the value are named."""
    contract = tmp_path / "bad.avsc"
    contract.write_text('{"type": "record", "name": "E", "fleetcast": {"step_seconds": 0}, "fields": []}')

    done = run("generate", "--contract", str(contract), "--output", str(tmp_path))

    assert done.returncode == 2
    assert "step_seconds" in done.stderr


def test_generate_then_read_back(tmp_path: Path) -> None:
    """`generate` writes both files and says how many rows."""
    done = run("generate", "--servers", "2", "--hours", "1", "--output", str(tmp_path))

    assert done.returncode == 0
    assert done.stdout.startswith("120 rows in ")
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.parquet", "incidents.parquet"}
    assert dt.datetime.now(dt.UTC).year >= 2026
