"""Options that every command takes. Flags beat the environment, the environment beats the file."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from schemas.contract import Contract
    from schemas.mapping import Mapping
    from schemas.topics import Topics

F = TypeVar("F", bound=Callable[..., Any])
_TOPICS = "fleetcast.topics"
_SECRET = ("password", "secret", "key.pem", "token")


@dataclass(frozen=True, slots=True)
class Common:
    """What every command knows.

    Attributes:
    XX        contract_file: None for the shipped one.
    """

    kafka: dict[str, str]
    registry_url: str
    contract_file: Path | None
    topic_names: dict[str, str]

    def __repr__(self) -> str:
        """Without passwords."""
        shown = {k: "***" if any(s in k for s in _SECRET) else v for k, v in self.kafka.items()}
        return f"Common(kafka={shown}, registry_url={self.registry_url!r}, contract_file={self.contract_file})"

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
        kafka = {"bootstrap.servers": bootstrap_servers, **properties}
        names = click.get_current_context().meta.get(_TOPICS, {})
        return command(common=Common(kafka, registry_url, contract_file, names), **rest)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


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


def _properties(_: click.Context, __: click.Parameter, values: Any) -> dict[str, str]:
    if isinstance(values, dict):  # a [kafka] table of the file
        values = [f"{k}={v}" for k, v in values.items()]
    properties = {}
    for item in values:
        name, equals, value = str(item).partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{item!r} is not KEY=VALUE")
        properties[name] = value
    return properties


def _logs(_: click.Context, __: click.Parameter, level: str) -> None:
    from fleetcast.logs import configure

    configure(level)


def _config(ctx: click.Context, _: click.Parameter, file: Path | None) -> None:
    """Defaults from the file: top-level names for all commands, a table named like a command for that one.

    ``[kafka]`` holds librdkafka properties, ``[topics]`` the names of topics.
    """
    if file is None:
        return
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file} is not TOML: {error}") from None
    own = {k: v for k, v in values.items() if not isinstance(v, dict)}
    own |= values.get(ctx.info_name or "", {})
    if "kafka" in values:
        own["properties"] = [f"{k}={v}" for k, v in values["kafka"].items()]
    ctx.meta[_TOPICS] = _topic_names(values.get("topics", {}), file)
    if "contract" in own:
        own["contract_file"] = own.pop("contract")
    if "mapping" in own:
        own["mapping_file"] = own.pop("mapping")
    own = {k.replace("-", "_"): v for k, v in own.items()}
    known = {p.name for p in ctx.command.params}
    if unknown := set(values.get(ctx.info_name or "", {})) - known - {"contract", "mapping"}:
        raise click.BadParameter(f"{file}: [{ctx.info_name}] has no option {min(unknown)!r}")
    ctx.default_map = {**(ctx.default_map or {}), **own}


def _topic_names(table: dict[str, object], file: Path) -> dict[str, str]:
    known = ("metrics", "steps", "forecasts", "scores", "dlq")
    for name, value in table.items():
        if name not in known or not isinstance(value, str):
            raise click.BadParameter(f"{file}: [topics] {name} = {value!r}: names of {', '.join(known)} are text")
    return {name: str(value) for name, value in table.items()}
