"""Mappings: another file's columns into the contract's, from TOML.

What is not named keeps its name; a column that the contract has no use for is dropped, and said. Under ``[columns]``::

    server_id = "server_name"                                   # renamed
    timestamp = { column = "ts", unit = "s" }                   # epoch seconds, "ms" or "us"
    cpu_percent = { column = "cpu_frac", scale = 100, offset = 0 }  # value x scale + offset
    status = { column = "state", map = { ok = "healthy", down = "offline" }, default = "healthy" }
    profile = { constant = "generic" }
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import structlog
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError, model_validator

from schemas.contract import Contract
from schemas.errors import DataError, InputError, MappingError
from schemas.fields import ContractField, Strict, first_problem

LEGACY = Path(__file__).with_name("mappings") / "legacy.toml"  # the earlier system's files
UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
# Year 9999 in ms: beyond it a number was read with the wrong unit.
LATEST_MS = 253_402_300_799_999
_log = structlog.get_logger()


class ColumnRule(Strict):
    """Where one field of the contract comes from: a column of the file (perhaps transformed), or a constant."""

    column: str | None = Field(default=None, min_length=1)
    unit: Literal["s", "ms", "us"] | None = None
    scale: float | None = Field(default=None, strict=True, allow_inf_nan=False)
    offset: float | None = Field(default=None, strict=True, allow_inf_nan=False)
    map: dict[str, str] | None = None
    default: str | None = None
    constant: StrictStr | StrictBool | StrictInt | StrictFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, data: Any) -> Any:
        return {"column": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if (self.column is None) == (self.constant is None):
            raise ValueError("needs either a column or a constant")
        kinds = [name for name, used in self._transforms().items() if used]
        if self.constant is not None and kinds:
            raise ValueError(f"a constant takes no {kinds[0]}")
        if len(kinds) > 1:
            raise ValueError(f"{' and '.join(kinds)} exclude each other")
        if self.default is not None and self.map is None:
            raise ValueError("a default needs a map")
        return self

    def _transforms(self) -> dict[str, bool]:
        return {
            "unit": self.unit is not None,
            "scale or offset": self.scale is not None or self.offset is not None,
            "map": self.map is not None,
        }


class _MappingFile(Strict):
    columns: dict[str, ColumnRule] = Field(default_factory=dict)


@dataclass(frozen=True)
class Mapping:
    """What each named field of the contract is made of; what is not named keeps its name.

    Attributes:
        columns: rule by the contract's field name.
        name: the mapping's file, for messages.
    """

    columns: dict[str, ColumnRule] = field(default_factory=dict)
    name: str = "mapping"

    @classmethod
    def identity(cls) -> Self:
        """Every column keeps its name."""
        return cls()

    @classmethod
    def parse(cls, text: str, name: str = "mapping") -> Self:
        """Read a mapping from TOML text.

        Raises:
            MappingError: naming the rule and its value.
        """
        try:
            return cls(_MappingFile.model_validate(tomllib.loads(text)).columns, name)
        except tomllib.TOMLDecodeError as error:
            raise MappingError(f"{name} is not TOML: {error}") from None
        except ValidationError as error:
            raise MappingError(f"{name}: {first_problem(error)}") from None

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a mapping file.

        Raises:
            InputError: the file cannot be read.
            MappingError: naming the rule and its value.
        """
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise InputError(f"cannot read mapping {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise MappingError(f"{path} is not UTF-8 text") from None

    def used(self, columns: Iterable[str], contract: Contract, source: str) -> list[str]:
        """Which of a file's columns are used, in the file's order; it is logged which are dropped.

        Raises:
            MappingError: a column that the mapping names is not there.
            DataError: a required column is not there.
        """
        there = list(columns)
        wanted = {f.name: self.columns.get(f.name, ColumnRule(column=f.name)).column for f in contract.fields}
        for target in contract.fields:
            column = wanted[target.name]
            if column is not None and column not in there:
                self._check_absent(target, column, source, there)
        dropped = sorted(set(there) - set(wanted.values()))
        if dropped:
            _log.info("columns that the contract has no use for are dropped", file=source, columns=dropped)
        return [column for column in there if column in wanted.values()]

    def _check_absent(self, target: ContractField, column: str, source: str, there: list[str]) -> None:
        if target.name in self.columns:
            raise MappingError(
                f"{self.name}: columns.{target.name}: {source} has no column {column!r}, only {_list(there)}"
            )
        if not target.nullable:
            raise DataError(
                f"{source}: column {column!r} is missing (a mapping can name another); there are {_list(there)}"
            )

    def check(self, contract: Contract) -> None:
        """Whether the rules make sense for the contract.

        Raises:
            MappingError: naming the rule and its value.
        """
        fields = {f.name: f for f in contract.fields}
        for name, rule in self.columns.items():
            if name not in fields:
                raise MappingError(
                    f"{self.name}: columns.{name}: the contract has no field {name!r}, only {_list(fields)}"
                )
            problem = _problem(rule, fields[name])
            if problem:
                raise MappingError(f"{self.name}: columns.{name}{problem}")

    def apply(self, frame: pd.DataFrame, contract: Contract, source: str) -> pd.DataFrame:
        """Make a file's columns into the contract's.

        Args:
            frame: the file's rows.
            contract: which fields there must be.
            source: the file, for messages.

        Returns:
            Exactly the contract's columns, in its order; a nullable one that the file lacks is null. Numeric times
            with a unit are datetime64[ms, UTC]; other values keep their type, to be judged by `schemas.history`.

        Raises:
            MappingError: the mapping does not fit the contract or the file.
            DataError: a required column is missing.
        """
        self.check(contract)
        self.used(frame.columns, contract, source)
        return pd.DataFrame({f.name: self._column(frame, f, source) for f in contract.fields}, index=frame.index)

    def _column(self, frame: pd.DataFrame, target: ContractField, source: str) -> "pd.Series[Any]":
        rule = self.columns.get(target.name)
        if rule is None and target.name not in frame.columns:
            return pd.Series(None, index=frame.index, dtype=object)
        if rule is None:
            return frame[target.name]
        if rule.constant is not None:
            return _constant(rule.constant, frame.index)
        return self._transformed(frame[rule.column], rule, target, source)

    def _transformed(
        self, column: "pd.Series[Any]", rule: ColumnRule, target: ContractField, source: str
    ) -> "pd.Series[Any]":
        where = f"{self.name}: columns.{target.name}: {source}: column {rule.column!r}"
        if rule.map is not None:
            return _mapped(column, rule, where)
        if rule.scale is not None or rule.offset is not None:
            if not _is_number(column):
                raise MappingError(f"{where}: {first_value(column)} is not a number to scale")
            scale, offset = (1.0 if rule.scale is None else rule.scale), rule.offset or 0.0
            return column.astype(np.float64) * scale + offset
        if rule.unit is not None and _is_number(column):
            return _from_epoch(column, rule.unit, where)
        return column


def _problem(rule: ColumnRule, target: ContractField) -> str | None:
    """What is wrong with a rule for its field, beginning with where; None where nothing is."""
    is_text = target.is_enum or target.avro == "string"
    if rule.unit is not None and target.role != "time":
        return f".unit: {rule.unit!r} is for the time, and {target.name!r} is a {target.role}"
    if (rule.scale is not None or rule.offset is not None) and (not target.is_real or target.role == "time"):
        return f": scale and offset are for numbers, and {target.name!r} is a {target.role}"
    if rule.map is not None and not is_text:
        return f".map: is for enums and text, and {target.name!r} is a {target.avro}"
    for where, value in _symbols_named(rule, target):
        if value not in target.symbols:
            return f"{where}: {value!r} is no symbol of {target.name!r} ({', '.join(target.symbols)})"
    return None if rule.constant is None else _constant_problem(rule.constant, target)


def _symbols_named(rule: ColumnRule, target: ContractField) -> list[tuple[str, Any]]:
    if not target.is_enum:
        return []
    named: list[tuple[str, Any]] = [(f".map.{key}", value) for key, value in (rule.map or {}).items()]
    named += [(".default", rule.default)] if rule.default is not None else []
    return named + ([(".constant", rule.constant)] if rule.constant is not None else [])


def _constant_problem(constant: Any, target: ContractField) -> str | None:
    if target.role == "time":
        return f".constant: {constant!r}: all events cannot have one time"
    wanted: type | tuple[type, ...] = {"boolean": bool, "string": str, "enum": str}.get(target.avro, (int, float))
    if not isinstance(constant, wanted) or (isinstance(constant, bool) and wanted is not bool):
        return f".constant: {constant!r} is no {target.avro}"
    return None


def _constant(value: Any, index: "pd.Index[Any]") -> "pd.Series[Any]":
    if isinstance(value, str):  # a category holds the text once, not once a row
        return pd.Series(pd.Categorical.from_codes(np.zeros(len(index), np.int8), pd.Index([value])), index=index)
    return pd.Series(value, index=index)


def _mapped(column: "pd.Series[Any]", rule: ColumnRule, where: str) -> "pd.Series[Any]":
    """Values through ``rule.map``; each distinct value is looked up once."""
    table = rule.map or {}
    codes, distinct = pd.factorize(column)
    targets = sorted({*table.values(), *([rule.default] if rule.default is not None else [])})
    position = {target: i for i, target in enumerate(targets)}
    found = [position.get(table.get(_text(value), rule.default or ""), -1) for value in distinct]
    null = -1 if rule.default is None else position[rule.default]
    out = np.array([*found, null], np.intp)[codes]  # a null has code -1: the last entry
    if rule.default is None and (out < 0).any():
        row = int(np.argmax(out < 0))
        raise MappingError(
            f"{where}, row {column.index[row]}: {shown(column.iloc[row])} is not in the map, and there is no default"
        )
    return pd.Series(pd.Categorical.from_codes(out, pd.Index(targets)), index=column.index)


def _from_epoch(column: "pd.Series[Any]", unit: str, where: str) -> "pd.Series[Any]":
    """Numbers since the epoch to datetime64[ms, UTC]; null to NaT."""
    per_second = UNITS_PER_SECOND[unit]
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    absurd = np.abs(numbers) > LATEST_MS / 1000 * per_second
    if absurd.any():
        row = int(np.argmax(absurd))
        raise MappingError(
            f"{where}, row {column.index[row]}: {shown(column.iloc[row])} is no time in {unit!r}: is the unit right?"
        )
    if column.dtype.kind in "iu":
        whole = column.to_numpy(np.int64)
        ms = whole // (per_second // 1000) if per_second > 1000 else whole * (1000 // per_second)
    else:
        ms = np.rint(np.nan_to_num(numbers) * (1000 / per_second)).astype(np.int64)
    times = ms.astype("datetime64[ms]")
    times[np.isnan(numbers)] = np.datetime64("NaT")
    return pd.Series(times, index=column.index).dt.tz_localize("UTC")


def _is_number(column: "pd.Series[Any]") -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def first_value(column: "pd.Series[Any]") -> str:
    """The first value that is not null, with its row, for messages."""
    present = np.flatnonzero(column.notna().to_numpy())
    row = int(present[0]) if len(present) else 0
    return f"row {column.index[row]}: {shown(column.iloc[row])}" if len(column) else "nothing"


def shown(value: Any) -> str:
    """A value for messages: 3, not np.int64(3)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _text(value: Any) -> str:
    """A file's value as it would stand as a key in TOML: true, 3, text."""
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(str, names))
