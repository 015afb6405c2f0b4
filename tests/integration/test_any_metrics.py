"""Contracts as users would write them on a real broker: the commands, from the schema to what a subscriber reads."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from devstack import Stack
from models.artifact import Model
from models.offline import forecast_file
from producer.generate import generate
from schemas.contract import Contract
from schemas.history import read_history
from schemas.topics import Topics
from tests import contracts
from tests.contracts import enum, field
from tests.integration.conftest import Stream, Subscribed
from tests.models.conftest import START_MS

pytestmark = pytest.mark.integration
PLANT = contracts.schema(
    field("tier", enum("Tier", "silver", "gold", "bronze"), "static"),
    field("pressure", ["null", "double"], "target", minimum=0, maximum=16, breach_above=12, unit="bar"),
    field("mode", enum("Mode", "run", "off", "boost"), "category"),
    field("flow", ["null", "float"], "target", unit="l/s"),
    field("valve", enum("Valve", "shut", "open"), "category"),
    field("note", ["null", "string"], "context"),
    key="pump", step_seconds=60, encoder_steps=20, min_encoder_steps=8, horizon_steps=7,
    quantiles=[0.1, 0.5, 0.9], known=["time_of_day"],
)  # fmt: skip
SHOP = contracts.schema(
    field("orders", "long", "target", minimum=0, maximum=5000), key="shop", step_seconds=3600, encoder_steps=24,
    min_encoder_steps=12, horizon_steps=12, forecast_every_steps=3,
)  # fmt: skip


class Commands:
    """``fleetcast`` as its user runs it, with a contract and topics of their own."""

    def __init__(self, stack: Stack, folder: Path, schema: dict[str, Any], name: str) -> None:
        self.topics = Topics(name, f"{name}.steps", f"{name}.forecasts", f"{name}.scores", f"{name}.dlq")
        self.contract_file, config = folder / "mine.avsc", folder / "fleetcast.toml"
        self.contract_file.write_text(json.dumps(schema))
        names = {"metrics": "", "steps": ".steps", "forecasts": ".forecasts", "scores": ".scores", "dlq": ".dlq"}
        config.write_text("[topics]\n" + "".join(f'{topic} = "{name}{end}"\n' for topic, end in names.items()))
        self._common = ["--contract", str(self.contract_file), "--config", str(config)]
        self._environment = {
            **os.environ,
            "FLEETCAST_BOOTSTRAP_SERVERS": stack.bootstrap_servers,
            "FLEETCAST_REGISTRY_URL": stack.registry_url,
        }

    def __call__(self, *arguments: str) -> str:
        """What it wrote to stdout."""
        command = [sys.executable, "-m", "fleetcast", *arguments, *self._common]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.mark.parametrize("source", ["replay", pytest.param("simulate", marks=pytest.mark.slow)])
def test_from_schema_to_forecasts(
    source: str, stack: Stack, make_small_model: Callable[[Contract], Model], tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Any contract goes from its file to the topic with commands alone; subscribers read what offline computes."""
    schema = PLANT if source == "simulate" else SHOP
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    fleetcast = Commands(stack, tmp_path, schema, name)
    contract = Contract.load(fleetcast.contract_file)
    model = make_small_model(contract)
    interval, hours = contract.settings.step_seconds // 2, contract.settings.step_seconds * 60 // 3600
    made = generate(
        tmp_path, contract, servers=3, hours=hours, start_ms=START_MS, seed=4, scenario="healthy", interval_s=interval
    )

    fleetcast("topics", "create", "--partitions", "1")
    registered = fleetcast("schemas", "register")
    if source == "simulate":
        start, end = (str(np.datetime64(ms, "ms")) for ms in (made.start_ms, made.end_ms))
        published = fleetcast(
            "simulate", "--servers", "3", "--start", start, "--until", end, "--speed", "max", "--seed", "4",
            "--scenario", "healthy", "--interval", str(interval),
        )  # fmt: skip
    else:
        published = fleetcast("replay", str(made.metrics))
    folder = str(model.metadata["folder"])
    fleetcast("consume", "--model", folder, "--until-idle", "0.3", "--http-port", "0", "--group-id", name)

    assert f"{name}-value" in registered
    assert published.startswith(f"{made.rows} ")
    stream = Stream(stack, fleetcast.topics, contract)
    forecasts = stream.read(stream.topics.forecasts)
    forecast_file(model, read_history([tmp_path / "metrics.parquet"], contract), tmp_path / "offline.parquet")
    check_forecasts(forecasts, pd.read_parquet(tmp_path / "offline.parquet"), contract)
    check_steps(stream.read(stream.topics.steps), contract)
    assert stream.read(stream.topics.dlq, decode=False) == []


def check_forecasts(forecasts: list[Subscribed], offline: pd.DataFrame, contract: Contract) -> None:
    """Of each server, issue time, target and level the offline file's values; units and thresholds of the contract."""
    settings = contract.settings
    offline = offline.assign(issued_ms=offline.issued_at.astype("datetime64[ms, UTC]").astype(np.int64))
    expected = {
        (str(server), issued_ms, str(target)): rows.sort_values("step")
        for (server, issued_ms, target), rows in offline.groupby(["server_id", "issued_ms", "target"], observed=True)
    }
    assert len(forecasts) * len(contract.targets) == len(expected) > 30, "one partition in time order, as offline"
    for forecast in forecasts:
        value = forecast.value
        assert forecast.key == value["server_id"]
        assert (value["step_seconds"], value["horizon_steps"]) == (settings.step_seconds, settings.horizon_steps)
        issued_ms = round(value["issued_at"].timestamp() * 1000)
        assert issued_ms % (settings.forecast_every_steps * contract.step_ms) == 0
        assert [t["name"] for t in value["targets"]] == [f.name for f in contract.targets]
        for target, given in zip(value["targets"], contract.targets, strict=True):
            rows = expected[value["server_id"], issued_ms, given.name]
            assert target["unit"] == given.unit
            assert (target["breach"] is None) == (given.breach_above is None)
            assert tuple(q["level"] for q in target["quantiles"]) == settings.quantiles
            for quantile in target["quantiles"]:
                np.testing.assert_allclose(quantile["values"], rows[f"q{quantile['level']:g}"], rtol=1e-4, atol=1e-4)


def check_steps(steps: list[Subscribed], contract: Contract) -> None:
    """A step's record holds the contract's fields beside those that every step has."""
    every = {"server_id", "step_start", "step_seconds", "count", "held", "held_fields", "contract_fingerprint"}
    fields = {f.name for f in (*contract.reals, *contract.enums, *contract.labels)}

    assert steps
    for step in steps:
        assert set(step.value) == every | fields
