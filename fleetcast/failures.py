"""What ends a command, in one sentence and with an exit code. Libraries that nobody imported raised nothing."""

import sys
from dataclasses import dataclass
from typing import Any

_BAD_PROPERTY = ("_INVALID_ARG", "_CONF")
_OUT_OF_REACH = ("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_RESOLVE", "_AUTHENTICATION", "_SSL")


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told."""

    reason: str
    exit_code: int


def explain(error: Exception) -> Failure | None:
    """The failure that ``error`` means to the user; None where it is a bug of ours."""
    from schemas.errors import FleetcastError

    if isinstance(error, FleetcastError):
        return Failure(str(error), error.exit_code)
    if _is(error, "confluent_kafka", "KafkaException"):
        return _of_kafka(error.args[0])
    if _is(error, "httpx2", "InvalidURL"):  # so much of a URL is only looked at when it is used
        return Failure(f"--registry-url: {error}", 2)
    if _is(error, "pydantic", "ValidationError"):
        return Failure(_of_pydantic(error), 2)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}", 2)
    return None


def _is(error: Exception, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _of_kafka(error: Any) -> Failure:
    name = error.name()
    if name in _BAD_PROPERTY:
        return Failure(f"Kafka property (-X, [kafka]): {error.str()}", 2)
    return Failure(f"Kafka: {error.str()}", 4 if name in _OUT_OF_REACH else 1)


def _of_pydantic(error: Any) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors())
