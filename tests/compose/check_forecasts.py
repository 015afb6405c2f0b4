"""``check_forecasts.py COUNT FILE``: exit 1 unless the file holds at least COUNT whole forecasts, one a line."""

import json
import math
import sys
from datetime import datetime
from pathlib import Path

from schemas.contract import Contract


def check(line: str, contract: Contract) -> None:
    """Targets, levels and horizon are the contract's, values are finite and quantiles do not cross."""
    forecast = json.loads(line)
    datetime.fromisoformat(forecast["issued_at"])
    assert forecast["server_id"]
    assert [t["name"] for t in forecast["targets"]] == [t.name for t in contract.targets]
    for target in forecast["targets"]:
        assert [q["level"] for q in target["quantiles"]] == list(contract.settings.quantiles)
        steps = list(zip(*(q["values"] for q in target["quantiles"]), strict=True))
        assert len(steps) == contract.settings.horizon_steps
        for values in steps:
            assert all(math.isfinite(v) for v in values)
            assert list(values) == sorted(values)


def main(count: str, file: str) -> None:
    """Check every line."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    assert len(lines) >= int(count), f"{len(lines)} forecasts, expected {count}"
    for line in lines:
        check(line, Contract.load(None))


if __name__ == "__main__":
    main(*sys.argv[1:])
