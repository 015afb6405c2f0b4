"""Options that every command takes. Flags beat the environment, the environment beats the file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fleetcast import config
from fleetcast.masking import MASK, is_secret, mask

if TYPE_CHECKING:
    from schemas.contract import Contract
    from schemas.mapping import Mapping
    from schemas.topics import Topics

F = TypeVar("F", bound=Callable[..., Any])
_FILE = "fleetcast.config"
_OBJECTS = ("logger", "default.topic.config", "delivery.report.only.error")


@dataclass(frozen=True, slots=True)
class Common:
    """What every command knows.

    Attributes:
        kafka: librdkafka properties.
        registry_url: where the schemas are.
        contract_file: None for the shipped one.
        topic_names: those that differ from the defaults.
    """

    kafka: dict[str, str]
    registry_url: str
    contract_file: Path | None
    topic_names: dict[str, str]

    def __repr__(self) -> str:
        """Without passwords."""
        kafka = {k: MASK if is_secret(k) else v for k, v in self.kafka.items()}
        return f"Common(kafka={kafka}, registry_url={mask(self.registry_url)!r}, contract_file={self.contract_file})"

    def topics(self) -> "Topics":
        """The topic names."""
        from schemas.topics import Topics

        return Topics(**self.topic_names)

    def contract(self) -> "Contract":
        """The contract that was asked for."""
        from schemas.contract import Contract

        return Contract.load(self.contract_file)

    def given_contract(self) -> "Contract | None":
        """The contract, if one was asked for by name."""
        return None if self.contract_file is None else self.contract()


def common(command: F) -> F:
    """Add the common options; the command gets them as ``common``."""
    options = (
        click.option(
            "--bootstrap-servers", metavar="HOST:PORT", envvar="FLEETCAST_BOOTSTRAP_SERVERS", default="localhost:9092",
            show_default=True, help="Kafka brokers.",
        ),
        click.option(
            "--registry-url", metavar="URL", envvar="FLEETCAST_REGISTRY_URL", default="http://localhost:8081",
            show_default=True, help="Schema registry; a path such as /apis/ccompat/v7 may follow.",
        ),
        click.option("-X", "properties", metavar="KEY=VALUE", multiple=True, callback=_properties,
                     help="Any librdkafka property; may be repeated."),
        click.option("--contract", "contract_file", type=click.Path(path_type=Path), envvar="FLEETCAST_CONTRACT",
                     help="Annotated Avro schema of the events. [default: the shipped one]"),
        click.option("--config", type=click.Path(path_type=Path), envvar="FLEETCAST_CONFIG", is_eager=True,
                     expose_value=False, callback=_config, help="fleetcast.toml with defaults for these options."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
                     envvar="FLEETCAST_LOG_LEVEL", is_eager=True, expose_value=False, callback=_logs,
                     help="Of stderr."),
    )  # fmt: skip

    def wrapped(
        bootstrap_servers: str, registry_url: str, properties: dict[str, str], contract_file: Path | None, **rest: Any
    ) -> Any:
        ctx = click.get_current_context()
        kafka = _kafka(ctx, bootstrap_servers, properties)
        names = ctx.meta[_FILE].topics if _FILE in ctx.meta else {}
        return command(common=Common(kafka, registry_url, contract_file, names), **rest)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")


def mapping_option(command: F) -> F:
    """Add ``--mapping``; the command gets a ``Mapping`` or None."""
    option = click.option(
        "--mapping", "mapping_file", type=click.Path(path_type=Path), metavar="FILE",
        help="TOML that makes the file's columns into the contract's (docs/mapping.md).",
    )  # fmt: skip
    return option(command)


def load_mapping(file: Path | None) -> "Mapping | None":
    """The mapping, if one was asked for."""
    from schemas.mapping import Mapping

    return None if file is None else Mapping.load(file)


def _properties(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    properties = {}
    for item in values:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{MASK if is_secret(item) else repr(item)} is not KEY=VALUE")
        properties[name] = value
    _refuse_callbacks(properties)
    return properties


def _refuse_callbacks(properties: dict[str, str]) -> None:
    """What the Python client takes as functions or objects has no text that could mean it."""
    for name in properties:
        if name.endswith("_cb") or name.startswith("on_") or name in _OBJECTS:
            raise click.BadParameter(f"the Kafka property {name} cannot be set from outside")


def _logs(_: click.Context, __: click.Parameter, level: str) -> None:
    from fleetcast.logs import configure

    configure(level)


def _config(ctx: click.Context, _: click.Parameter, file: Path | None) -> None:
    """Defaults from the file."""
    if file is None:
        return
    loaded = config.load(file, ctx)
    _refuse_callbacks(loaded.kafka)
    ctx.meta[_FILE] = loaded
    ctx.default_map = {**(ctx.default_map or {}), **loaded.options}


def _kafka(ctx: click.Context, bootstrap_servers: str, properties: dict[str, str]) -> dict[str, str]:
    """Properties by key: ``--bootstrap-servers`` and ``-X``, then the environment, the file, the default."""
    file: dict[str, str] = ctx.meta[_FILE].kafka if _FILE in ctx.meta else {}
    found = {"bootstrap.servers": bootstrap_servers, **file, **properties}
    source = ctx.get_parameter_source("bootstrap_servers")
    given = source is ParameterSource.COMMANDLINE
    if given or (source is not ParameterSource.DEFAULT and "bootstrap.servers" not in properties):
        found["bootstrap.servers"] = bootstrap_servers
    return found
