"""``train`` as a user types it."""

import json
from pathlib import Path

from click.testing import CliRunner

from fleetcast.__main__ import cli
from tests.contracts import field, schema


def typed(*arguments: str | Path) -> str:
    """What a command writes to stdout."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_other_data_is_judged_too(tmp_path: Path) -> None:
    """With --test-data the card and the metadata tell of data that was never trained on, breaches among it."""
    load = field("cpu_percent", "double", "target", unit="percent", minimum=0, maximum=100, breach_above=60)
    contract = tmp_path / "my.avsc"
    contract.write_text(json.dumps(schema(load, step_seconds=300, encoder_steps=12, known=["hour"])))
    for name, seed in (("history", 1), ("other", 2)):
        typed("generate", "--contract", contract, "--servers", "3", "--hours", "24", "--seed", seed,
              "--output", tmp_path / name)  # fmt: skip

    printed = typed(
        "train", "--contract", contract, "--data", tmp_path / "history", "--epochs", "1", "--epoch-windows", "64",
        "--hidden-size", "8", "--test-data", tmp_path / "other", "--output", tmp_path / "models",
    )  # fmt: skip

    folder = Path(printed.splitlines()[-1])
    tested = json.loads((folder / "training_metadata.json").read_text())["test_metrics"]
    assert tested["model_version"] == folder.name
    assert tested["breaches"]["share"] == 1.0, "so few windows are all looked at"
    assert "## Skill on data that was never trained on" in (folder / "MODEL_CARD.md").read_text()
