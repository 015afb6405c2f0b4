"""One contract: the annotated Avro schema of the metric event is the only list of field names there is.

Format: `docs/contract.md`. The attribute ``fleetcast`` stands on the record and on its fields; extra attributes are
legal Avro (specification 1.12, "Schema Declaration") and survive a registry.
"""

import itertools
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import fastavro
from fastavro.schema import SchemaParseException
from pydantic import Field, ValidationError, model_validator

from schemas.errors import ContractError, InputError
from schemas.fields import TIME_UNITS_PER_MS, ContractField, Number, Strict, first_problem, is_name, read_field

SHIPPED = Path(__file__).with_name("metric_event.avsc")
DAY_SECONDS = 86_400
# Names that the records going out use themselves (schemas/records.py).
RESERVED = ("server_id", "step_start", "step_seconds", "count", "held", "held_fields", "contract_fingerprint")
Known = Literal["hour", "day_of_week", "month", "is_weekend", "time_of_day", "season_lag"]
_INT_MAX = 2**31 - 1  # the records going out hold an Avro int
Count = Annotated[int, Field(strict=True, ge=1, le=_INT_MAX)]
# Windows are kept in memory, by server: what is longer is a mistake.
MOST_STEPS = 100_000
Steps = Annotated[int, Field(strict=True, ge=1, le=MOST_STEPS)]


class Settings(Strict):
    """The ``fleetcast`` attribute of the record. Durations are in steps or seconds, as their names say."""

    step_seconds: Count
    encoder_steps: Annotated[int, Field(strict=True, ge=2, le=MOST_STEPS)]
    horizon_steps: Steps
    min_encoder_steps: Steps
    quantiles: tuple[Number, ...] = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
    known: tuple[Known, ...] = ()
    season_steps: Steps
    allowed_lateness_seconds: Annotated[float, Field(strict=True, ge=0)] = 60
    max_ahead_seconds: Annotated[float, Field(strict=True, ge=0)] = 300
    max_gap_steps: Annotated[int, Field(strict=True, ge=0, le=MOST_STEPS)] = 12
    forecast_every_steps: Count = 1

    @model_validator(mode="before")
    @classmethod
    def _derived_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        encoder, step = data.get("encoder_steps"), data.get("step_seconds")
        if isinstance(encoder, int):
            data.setdefault("min_encoder_steps", max(1, encoder // 2))
        if isinstance(step, int) and step > 0:
            data.setdefault("season_steps", max(1, round(DAY_SECONDS / step)))
        return data

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.min_encoder_steps > self.encoder_steps:
            raise ValueError(f"min_encoder_steps {self.min_encoder_steps} exceeds encoder_steps {self.encoder_steps}")
        open_steps = (self.allowed_lateness_seconds + self.max_ahead_seconds) / self.step_seconds
        if not open_steps <= MOST_STEPS:
            raise ValueError(
                f"allowed_lateness_seconds + max_ahead_seconds keep {open_steps:g} steps open, more than {MOST_STEPS}"
            )
        q = self.quantiles
        if not q or any(not 0 < level < 1 for level in q):
            raise ValueError(f"quantiles must lie between 0 and 1, not {list(q)}")
        if any(a >= b for a, b in itertools.pairwise(q)):
            raise ValueError(f"quantiles must ascend, each once, not {list(q)}")
        if len(set(self.known)) != len(self.known):
            raise ValueError(f"known names an input twice: {list(self.known)}")
        if "season_lag" in self.known and self.horizon_steps > self.season_steps:
            raise ValueError(
                f"season_lag is known in advance only while horizon_steps ({self.horizon_steps}) "
                f"is at most season_steps ({self.season_steps})"
            )
        return self


class Contract:
    """The typed contract.

    Attributes:
        schema: the Avro schema as it was written, with its annotations.
        settings: step, encoder, horizon, quantiles and the rules of event time.
        fields: all fields, in the schema's order.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        """Read the annotations of ``schema``.

        Raises:
            ContractError: naming the field or attribute, and its value.
        """
        self.schema = schema
        self.fields = _read_fields(schema)
        self.settings = _read_settings(schema)
        _check_roles(self.fields)
        _check_avro(schema)

    @classmethod
    def parse(cls, text: str, source: str = "contract") -> Self:
        """Read a contract from JSON text; ``source`` names it in errors."""
        try:
            schema = json.loads(text)
        except (ValueError, RecursionError) as error:  # JSON's own error, a number of 5,000 digits, 100,000 brackets
            raise ContractError(f"{source} is not JSON: {error}") from None
        try:
            return cls(schema)
        except ContractError as error:
            raise ContractError(f"{source}: {error}") from None

    @classmethod
    def load(cls, path: Path | str | None = None) -> Self:
        """Read a contract file; the shipped one without a path."""
        file = SHIPPED if path is None else Path(path)
        try:
            return cls.parse(file.read_text(encoding="utf-8"), source=str(path or file.name))
        except OSError as error:
            raise InputError(f"cannot read contract {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ContractError(f"contract {file} is not UTF-8 text") from None

    @property
    def name(self) -> str:
        """The record's name without its namespace."""
        return str(self.schema["name"]).rpartition(".")[2]

    @property
    def namespace(self) -> str:
        """The record's namespace, or ``""``."""
        return _namespace(self.schema)

    @property
    def step_ms(self) -> int:
        """Length of a step in milliseconds."""
        return self.settings.step_seconds * 1000

    @cached_property
    def key(self) -> ContractField:
        """The field that says which server an event is of."""
        return self._only("key")

    @cached_property
    def time(self) -> ContractField:
        """The field that holds event time."""
        return self._only("time")

    @property
    def time_units_per_ms(self) -> int:
        """1 for timestamp-millis, 1000 for timestamp-micros."""
        return TIME_UNITS_PER_MS[self.time.logical]

    @cached_property
    def targets(self) -> tuple[ContractField, ...]:
        """Fields that are forecast, and inputs too."""
        return self._with("target")

    @cached_property
    def covariates(self) -> tuple[ContractField, ...]:
        """Observed real inputs."""
        return self._with("covariate")

    @cached_property
    def categories(self) -> tuple[ContractField, ...]:
        """Observed categorical inputs."""
        return self._with("category")

    @cached_property
    def statics(self) -> tuple[ContractField, ...]:
        """Categorical inputs that do not change."""
        return self._with("static")

    @cached_property
    def inputs(self) -> tuple[ContractField, ...]:
        """The real inputs of the model: targets, then covariates."""
        return self.targets + self.covariates

    @cached_property
    def reals(self) -> tuple[ContractField, ...]:
        """Every number: the inputs, then the numeric context. Columns of ``EventBatch.reals``."""
        return self.inputs + tuple(f for f in self._with("context") if f.is_real)

    @cached_property
    def enums(self) -> tuple[ContractField, ...]:
        """Every enum: categories, statics, then enum context. Columns of ``EventBatch.enums``."""
        return self.categories + self.statics + tuple(f for f in self._with("context") if f.is_enum)

    @cached_property
    def labels(self) -> tuple[ContractField, ...]:
        """Context that is text or boolean. Columns of ``EventBatch.labels``."""
        return tuple(f for f in self._with("context") if not f.is_real and not f.is_enum)

    def _with(self, role: str) -> tuple[ContractField, ...]:
        return tuple(f for f in self.fields if f.role == role)

    def _only(self, role: str) -> ContractField:
        return self._with(role)[0]


def _read_fields(schema: Any) -> tuple[ContractField, ...]:
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise ContractError("a contract is an Avro record")
    if not isinstance(schema.get("name"), str) or not all(map(is_name, schema["name"].split("."))):
        raise ContractError(f"the record has no valid Avro name: {schema.get('name')!r}")
    if not isinstance(schema.get("fields"), list):
        raise ContractError("the record has no fields")
    named: dict[str, dict[str, Any]] = {}
    return tuple(read_field(raw, named, _namespace(schema)) for raw in schema["fields"])


def _namespace(schema: dict[str, Any]) -> str:
    return str(schema["name"]).rpartition(".")[0] or str(schema.get("namespace", ""))


def _check_avro(schema: dict[str, Any]) -> None:
    """The rest of Avro's rules: a type name defined twice, a default of another type, an invalid record name."""
    try:
        fastavro.parse_schema(schema)
    except (SchemaParseException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ContractError(f"not a valid Avro schema: {error}") from None


def _read_settings(schema: dict[str, Any]) -> Settings:
    if not isinstance(schema.get("fleetcast"), dict):
        raise ContractError("the record has no 'fleetcast' attribute (step_seconds, encoder_steps, horizon_steps)")
    try:
        return Settings.model_validate(schema["fleetcast"])
    except ValidationError as error:
        raise ContractError(f"fleetcast.{first_problem(error)}") from None


def _check_roles(fields: tuple[ContractField, ...]) -> None:
    def named(role: str) -> list[str]:
        return [f.name for f in fields if f.role == role]

    for role in ("key", "time"):
        if not named(role):
            raise ContractError(f"no field has the role {role!r}")
        if len(named(role)) > 1:
            raise ContractError(f"more than one field has the role {role!r}: {', '.join(named(role))}")
    if not named("target"):
        raise ContractError("no field has the role 'target': there is nothing to forecast")
    repeated = _repeated(f.name for f in fields)
    if repeated:
        raise ContractError(f"field {repeated!r} stands twice")
    for field in fields:
        if field.role not in ("key", "time") and field.name in RESERVED:
            raise ContractError(f"field {field.name!r}: the name is used by the steps that Fleetcast publishes")


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
