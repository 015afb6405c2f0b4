"""All of the real input, through the commands a user would type. Figures go to docs/benchmarks.md."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models import artifact
from models.artifact import Model
from tests.integration.conftest import Stream
from tests.integration.test_stream_equals_offline import CONSTANTS, check_steps, smd

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3000)]
ROWS = 379_134


def timed(name: str, command: list[str], environment: dict[str, str]) -> dict[str, object]:
    """Run one of our commands; its time, and the largest memory of any child so far."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "fleetcast", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return {
        "command": name, "seconds": round(time.perf_counter() - started, 1), "out": done.stdout.strip(),
        "peak_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "last": logged[-1] if logged else {},
    }  # fmt: skip


def offline_forecasts(file: Path, model: Model) -> dict[tuple[str, int], np.ndarray]:
    """[target, horizon, quantile] by server and issue time."""
    settings, found = model.contract.settings, {}
    names = [f"q{level:g}" for level in settings.quantiles]
    size = len(model.contract.targets) * settings.horizon_steps
    for group in range((parquet := pq.ParquetFile(file)).num_row_groups):
        table = parquet.read_row_group(group)
        values = np.stack([table[name].to_numpy() for name in names], axis=-1)
        servers, issued = table["server_id"].to_pylist(), table["issued_at"].cast("int64").to_numpy()
        for start in range(0, len(values), size):
            shape = (len(model.contract.targets), settings.horizon_steps, len(names))
            found[servers[start], int(issued[start])] = values[start : start + size].reshape(shape)
    return found


def test_all_rows_of_eight_real_machines(
    smd_servers: Path, make_stream: Callable[..., Stream], shipped_model: Model, tmp_path: Path
) -> None:
    """379,134 rows at full speed: every step accounted for, every due step forecast, each equal to the offline one."""
    folder = os.environ.get("FLEETCAST_REPLAY_MODEL") or shipped_model.metadata["folder"]
    model = artifact.load(Path(str(folder)))
    stream, contract = make_stream(partitions=6), model.contract
    config, mapping, file = tmp_path / "fleetcast.toml", tmp_path / "smd.toml", tmp_path / "offline.parquet"
    names = {"metrics": "", "steps": ".steps", "forecasts": ".forecasts", "scores": ".scores", "dlq": ".dlq"}
    config.write_text("\n".join(["[topics]", *(f'{k} = "{stream.topics.metrics}{v}"' for k, v in names.items())]))
    mapping.write_text(CONSTANTS)
    environment = {
        **os.environ,
        "FLEETCAST_BOOTSTRAP_SERVERS": stream.stack.bootstrap_servers,
        "FLEETCAST_REGISTRY_URL": stream.stack.registry_url,
        "FLEETCAST_CONFIG": str(config),
    }
    given = ["--mapping", str(mapping)]
    served = ["--model", str(folder)]
    runs = [
        timed("replay", ["replay", str(smd_servers), "--speed", "max", *given], environment),
        timed("consume", ["consume", *served, "--until-idle", "2", "--http-port", "0"], environment),
        timed(
            "forecast", ["forecast", *served, "--data", str(smd_servers), "--output", str(file), *given], environment
        ),
    ]
    print(json.dumps(runs, indent=2))

    figures = runs[1]["last"]
    assert isinstance(figures, dict)
    assert (figures["events"], figures["refused"], figures["withheld"], figures["held"]) == (ROWS, {}, 0, 0)
    batch = smd(smd_servers, hours=None)
    steps = stream.read(stream.topics.steps)
    check_steps(steps, batch, contract)
    expected = offline_forecasts(file, model)
    compared, worst = compare(stream, expected)
    ready = sum(1 for s in by_server(steps) for _ in s[contract.settings.min_encoder_steps - 1 :])
    assert compared == figures["forecasts"] == ready, "every step from the 144th of each server on has its forecast"
    assert worst <= 1e-4
    print(json.dumps({"forecasts": compared, "only_offline": len(expected), "worst_difference": worst}))
    assert len(expected) <= 2 * 8


def by_server(steps: list[object]) -> list[list[object]]:
    grouped: dict[object, list[object]] = {}
    for step in steps:
        grouped.setdefault(step.key, []).append(step)  # type: ignore[attr-defined]
    return list(grouped.values())


def compare(stream: Stream, expected: dict[tuple[str, int], np.ndarray]) -> tuple[int, float]:
    """Take each of the stream's forecasts out of ``expected``; how many, and the largest |a - b| / (1 + |b|)."""
    count, worst = 0, 0.0
    for record in stream.iterate(stream.topics.forecasts):
        value = record.value
        offline = expected.pop((value["server_id"], int(value["issued_at"].timestamp() * 1000)))
        got = np.array([[q["values"] for q in t["quantiles"]] for t in value["targets"]], np.float32).swapaxes(1, 2)
        worst = max(worst, float((np.abs(got - offline) / (1 + np.abs(offline))).max()))
        count += 1
    return count, worst
