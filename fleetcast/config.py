"""``fleetcast.toml``: defaults for options, librdkafka properties and topic names (docs/configuration.md).

Keys are option names as typed, ``-`` or ``_`` alike. At the top level they hold for every command that has the option,
in a table named like a command (``[consume]``, ``["model check"]``) for that one.
"""

import datetime as dt
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

TOPICS = ("metrics", "steps", "forecasts", "scores", "dlq")
_NOT_IN_FILES = ("config", "help", "version")


@dataclass(frozen=True, slots=True)
class FileConfig:
    """What a file says to one command.

    Attributes:
        options: defaults by click parameter name.
        kafka: librdkafka properties.
        topics: names that differ from the defaults.
    """

    options: dict[str, Any]
    kafka: dict[str, str]
    topics: dict[str, str]


def load(file: Path, ctx: click.Context) -> FileConfig:
    """Read ``file`` for the command of ``ctx``; the whole file is checked, not only what this command uses.

    Raises:
        click.BadParameter: it cannot be read, or says what nobody understands.
    """
    try:
        return _understand(_read(file), ctx)
    except click.BadParameter as error:
        raise click.BadParameter(f"{file}: {error.message}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"is not TOML: {error}") from None


def _understand(values: dict[str, Any], ctx: click.Context) -> FileConfig:
    commands = {name: _names(command) for name, command in _commands(ctx.find_root().command)}
    everywhere = {key for names in commands.values() for key in names}
    own = commands.get(_path(ctx), _names(ctx.command))
    kafka = _properties(_table(values, "kafka"))
    topics = _topics(_table(values, "topics"))
    general: dict[str, Any] = {}
    special: dict[str, Any] = {}
    for key, value in values.items():
        if key in ("kafka", "topics"):
            continue
        if key in commands:
            options = _options(_table(values, key), commands[key], f"[{_quoted(key)}] ")
            special |= options if key == _path(ctx) else {}
        elif isinstance(value, dict):
            raise click.BadParameter(
                f"[{key}] is no command: tables are kafka, topics, {', '.join(map(_quoted, commands))}"
            )
        else:
            _options({key: value}, dict.fromkeys(everywhere, ""), "")
            general |= _options({key: value}, own, "") if _dashed(key) in own else {}
    return FileConfig({**general, **special}, kafka, topics)


def _commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that runs, by its name as typed after ``fleetcast``."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, child in command.commands.items():
        yield from _commands(child, f"{path} {name}".strip())


def _path(ctx: click.Context) -> str:
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, str(ctx.info_name))
        ctx = ctx.parent
    return " ".join(names)


def _names(command: click.Command) -> dict[str, str]:
    """Parameter name by option name as typed, without its dashes."""
    return {
        name.removeprefix("--"): str(option.name)
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--") and name.removeprefix("--") not in _NOT_IN_FILES
    }


def _options(table: dict[str, Any], known: dict[str, str], where: str) -> dict[str, Any]:
    found = {}
    for key, value in table.items():
        if _dashed(key) not in known:
            raise click.BadParameter(f"{where}{key}: there is no option {key!r}; known are {', '.join(sorted(known))}")
        if not isinstance(value, str | int | float | dt.datetime | dt.date):
            raise click.BadParameter(f"{where}{key}: {value!r} is no text, number, time or true/false")
        found[known[_dashed(key)]] = value if isinstance(value, int | float) else str(value)
    return found


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, dict):
        raise click.BadParameter(f"{name}: it must be a table, [{_quoted(name)}]")
    return table


def _properties(table: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Properties as text; ``socket.timeout.ms`` without quotes is a table of tables to TOML."""
    found: dict[str, str] = {}
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict):
            found |= _properties(value, f"{name}.")
        elif isinstance(value, bool):
            found[name] = str(value).lower()
        elif isinstance(value, str | int | float):
            found[name] = str(value)
        else:
            raise click.BadParameter(f"[kafka] {name}: it must be text, a number or true/false")
    return found


def _topics(table: dict[str, Any]) -> dict[str, str]:
    for name, value in table.items():
        if name not in TOPICS or not isinstance(value, str) or not value:
            raise click.BadParameter(f"[topics] {name} = {value!r}: names of {', '.join(TOPICS)} are text")
    return dict(table)


def _dashed(key: str) -> str:
    return key.replace("_", "-")


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
