"""Avro field types that a contract allows, read into typed field descriptions."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import ContractError

Role = Literal["key", "time", "target", "covariate", "category", "static", "context"]
NUMERIC = ("double", "float", "int", "long")
TIME_UNITS_PER_MS = {"timestamp-millis": 1, "timestamp-micros": 1000}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Strict(BaseModel):
    """Frozen. NaN, infinity and unknown attributes are errors: a misspelt one must not pass for its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# A number as JSON has it: neither the text "300" nor true passes for one.
Number = Annotated[float, Field(strict=True)]


class Annotation(Strict):
    """The ``fleetcast`` attribute of a field."""

    role: Role
    unit: str = ""
    minimum: Number | None = None
    maximum: Number | None = None
    breach_above: Number | None = None
    breach_below: Number | None = None

    @model_validator(mode="after")
    def _sensible(self) -> "Annotation":
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum} is not below maximum {self.maximum}")
        if self.breach_above is not None and self.breach_below is not None:
            raise ValueError("breach_above and breach_below exclude each other")
        return self


class ContractField(Strict):
    """One field of the metric event.

    Attributes:
        avro: ``double``, ``float``, ``int``, ``long``, ``enum``, ``string`` or ``boolean``; nullability aside.
        symbols: those of an enum, in the schema's order; else empty.
        logical: Avro's logicalType, or ``""``.
    """

    name: str
    role: Role
    avro: Annotated[str, Field(min_length=1)]
    nullable: bool = False
    symbols: tuple[str, ...] = ()
    logical: str = ""
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    breach_above: float | None = None
    breach_below: float | None = None

    @property
    def is_real(self) -> bool:
        """Whether the value is a number that is averaged over a step."""
        return self.avro in NUMERIC

    @property
    def is_enum(self) -> bool:
        """Whether the value is one of ``symbols``."""
        return self.avro == "enum"

    @property
    def breaches_above(self) -> bool:
        """Whether a breach is above the threshold; else below it, where there is one."""
        return self.breach_above is not None

    @property
    def threshold(self) -> float | None:
        """What a breach is beyond, in the field's unit."""
        return self.breach_below if self.breach_above is None else self.breach_above


def describe_type(avro_type: Any) -> str:
    """A short name of an Avro type for messages."""
    if isinstance(avro_type, dict):
        return str(avro_type.get("logicalType") or avro_type.get("name") or avro_type.get("type"))
    return " or ".join(map(describe_type, avro_type)) if isinstance(avro_type, list) else str(avro_type)


def read_field(raw: Any, named: dict[str, dict[str, Any]], namespace: str = "") -> ContractField:
    """Read one field of the record.

    Args:
        raw: the field as it stands in the schema.
        named: enums defined by earlier fields, by full name; this field's enum is added.
        namespace: the record's, which names without one are in.

    Raises:
        ContractError: naming the field and what is wrong with it.
    """
    if not isinstance(raw, dict) or not is_name(raw.get("name")):
        raise ContractError(f"a field has no valid Avro name: {raw!r}")
    name = raw["name"]
    annotation = _read_annotation(name, raw)
    avro, nullable = _unwrap_nullable(name, raw.get("type"))
    if isinstance(avro, str):
        avro = named.get(_full_name(avro, namespace), avro)
    kind, logical, symbols = _read_type(name, avro)
    if symbols:
        named[_full_name(str(avro.get("name")), str(avro.get("namespace", namespace)))] = avro
    field = ContractField(
        avro=kind, nullable=nullable, symbols=symbols, logical=logical, name=name, **annotation.model_dump()
    )
    _check_role(field, describe_type(raw.get("type")))
    return field


def _full_name(name: str, namespace: str) -> str:
    """Avro specification 1.12, "Names": a name with dots is full already."""
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _read_annotation(name: str, raw: dict[str, Any]) -> Annotation:
    if "fleetcast" not in raw:
        return Annotation(role="context")
    try:
        return Annotation.model_validate(raw["fleetcast"])
    except ValidationError as error:
        raise ContractError(f"field {name!r}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first problem of a validation error in one line: where, what, and the value."""
    problem = error.errors(include_url=False)[0]
    where, message = ".".join(str(part) for part in problem["loc"]), str(problem["msg"])
    if problem["type"] == "missing":
        return f"{where} is missing"
    if problem["type"] == "value_error" and not where:  # ours, over several values: it names them
        return message.removeprefix("Value error, ")
    return f"{where or 'fleetcast'}: {message.removeprefix('Value error, ')} (got {problem['input']!r})"


def _unwrap_nullable(name: str, avro: Any) -> tuple[Any, bool]:
    if not isinstance(avro, list):
        return avro, False
    others = [branch for branch in avro if branch != "null"]
    if len(avro) != 2 or len(others) != 1:
        raise ContractError(f"field {name!r}: a union must be of null and one type, not {describe_type(avro)}")
    return others[0], True


def _read_type(name: str, avro: Any) -> tuple[str, str, tuple[str, ...]]:
    logical = ""
    symbols: tuple[str, ...] = ()
    if isinstance(avro, dict):
        logical = str(avro.get("logicalType", ""))
        if avro.get("type") == "enum":
            given = avro.get("symbols")
            if not isinstance(given, list) or not given or not all(map(is_name, given)) or len(set(given)) < len(given):
                raise ContractError(f"field {name!r}: an enum needs distinct Avro names as symbols, not {given}")
            symbols = tuple(given)
        avro = avro.get("type")
    if avro not in (*NUMERIC, "enum", "string", "boolean"):
        raise ContractError(f"field {name!r}: the type {describe_type(avro)} is not one a contract allows")
    return str(avro), logical, symbols


def is_name(name: Any) -> bool:
    """Whether it is a name as Avro allows it, without a namespace."""
    return isinstance(name, str) and bool(_NAME.match(name))


def _check_role(field: ContractField, type_name: str) -> None:
    wanted = {
        "key": (field.avro == "string" and not field.nullable, "a string"),
        "time": (
            field.avro == "long" and field.logical in TIME_UNITS_PER_MS and not field.nullable,
            "a long with logicalType timestamp-millis (or timestamp-micros)",
        ),
        "target": (field.is_real and not field.logical, "a number (double, float, int or long)"),
        "covariate": (field.is_real and not field.logical, "a number (double, float, int or long)"),
        "category": (field.is_enum and not field.nullable, "an enum that is not nullable"),
        "static": (field.is_enum and not field.nullable, "an enum that is not nullable"),
        "context": (True, ""),
    }
    fits, needed = wanted[field.role]
    if not fits:
        raise ContractError(f"field {field.name!r}: a {field.role} must be {needed}, not {type_name}")
    bounds = (field.minimum, field.maximum, field.breach_above, field.breach_below)
    if not field.is_real and any(bound is not None for bound in bounds):
        raise ContractError(f"field {field.name!r}: bounds are for numbers, not for {type_name}")
    if field.role != "target" and (field.breach_above is not None or field.breach_below is not None):
        raise ContractError(f"field {field.name!r}: only a target can have a breach threshold, not a {field.role}")
