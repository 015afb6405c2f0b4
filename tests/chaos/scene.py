"""Where it takes place: a small contract, a model of random weights, one input topic, and two groups' topics."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devstack import Stack
from models.samples import History
from schemas.contract import Contract
from schemas.records import forecast_schema, step_schema
from schemas.registry import Registry
from schemas.topics import Topics, connect, create
from tests import contracts
from tests.models.conftest import events, random_model

PARTITIONS = 4
MAXIMUM = 100.0  # of a target; beyond it an event is invalid
LATENESS_SECONDS = 30


def contract() -> Contract:
    """Two targets, one with a threshold, a category and a number that may be missing; windows fill within minutes."""
    fields = (
        contracts.field("load", "double", "target", minimum=0, maximum=MAXIMUM, breach_above=70),
        contracts.field("queue", "double", "target", minimum=0),
        contracts.field("state", contracts.enum("State", "up", "down", "busy"), "category"),
        contracts.field("temperature", ["null", "double"], "context"),
    )
    settings: dict[str, Any] = {
        "step_seconds": 60,
        "encoder_steps": 24,
        "min_encoder_steps": 12,
        "horizon_steps": 12,
        "quantiles": [0.1, 0.5, 0.9],
        "max_gap_steps": 3,
        "allowed_lateness_seconds": LATENESS_SECONDS,
    }
    return Contract(contracts.schema(*fields, **settings))


@dataclass(slots=True)
class Group:
    """One consumer group, its output topics, and the file that tells its members."""

    name: str
    topics: Topics
    config: Path


@dataclass(slots=True)
class Scene:
    """Everything that both runs share.

    Attributes:
        stack: broker and registry.
        name: of the input topic; prefix of all others.
        folder: for the model, the contract, the configurations and the members' logs.
        options: more arguments for each member.
        guarantee: ``exactly_once`` or ``at_least_once``.
    """

    stack: Stack
    name: str
    folder: Path
    guarantee: str
    options: tuple[str, ...] = ()
    contract: Contract = field(default_factory=contract)
    calm: Group = field(init=False)
    disturbed: Group = field(init=False)
    model: Path = field(init=False)

    def __post_init__(self) -> None:
        """Create topics, register schemas, write files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "contract.avsc").write_text(json.dumps(self.contract.schema))
        self.model = self._model()
        self.calm, self.disturbed = self._group("calm"), self._group("disturbed")

    @property
    def kafka(self) -> dict[str, Any]:
        """How the harness's own clients connect."""
        return {"bootstrap.servers": self.stack.bootstrap_servers, "log_level": 2}

    def registry(self) -> Registry:
        """A client of its own."""
        return Registry(self.stack.registry_url)

    def command(self, group: Group, instance: str) -> list[str]:
        """Arguments of ``fleetcast`` that make a member of ``group``."""
        return [
            "consume",
            "--model", str(self.model),
            "--contract", str(self.folder / "contract.avsc"),
            "--config", str(group.config),
            "--group-id", group.name,
            "--instance-id", instance,
            "--http-port", "0",
            "--bootstrap-servers", self.stack.bootstrap_servers,
            "--registry-url", self.stack.registry_url,
            "--processing-guarantee", self.guarantee,
            "--log-level", "debug",
            *self.options,
        ]  # fmt: skip

    def _model(self) -> Path:
        history = History(self.contract, events(self.contract, servers=3, steps=80))
        random_model(self.contract, history, self.folder)
        return next(self.folder.glob("tft_model_*"))

    def _group(self, name: str) -> Group:
        prefix = f"{self.name}.{name}"
        topics = Topics(self.name, f"{prefix}.steps", f"{prefix}.forecasts", f"{prefix}.scores", f"{prefix}.dlq")
        create(connect(self.kafka), topics, PARTITIONS)
        registry = self.registry()
        registry.register(topics.metrics, self.contract.schema)
        registry.register(topics.steps, step_schema(self.contract))
        registry.register(topics.forecasts, forecast_schema())
        config = self.folder / f"{name}.toml"
        names = {"metrics": topics.metrics, "steps": topics.steps, "forecasts": topics.forecasts}
        names |= {"scores": topics.scores, "dlq": topics.dlq}
        config.write_text("[topics]\n" + "".join(f'{key} = "{value}"\n' for key, value in names.items()))
        return Group(prefix, topics, config)
