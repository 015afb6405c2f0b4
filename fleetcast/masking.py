"""Secrets stay out of what is printed and logged."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

MASK = "***"
_SECRET = ("password", "secret", "token", "key")
_USER = re.compile(r"//([^\s/:@]*):\S*@")


def mask(text: str) -> str:
    """``text`` with the passwords of its URLs hidden: ``http://user:***@host``."""
    return _USER.sub(rf"//\1:{MASK}@", text)


def is_secret(name: str) -> bool:
    """Whether the value of a property of this name stays hidden."""
    return any(word in name.lower() for word in _SECRET)


def mask_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A structlog processor: no text of an event shows a password."""
    return {key: mask(value) if isinstance(value, str) else value for key, value in event.items()}
