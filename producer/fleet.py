"""A fleet of servers: one vectorised source of events, for parquet and for Kafka alike."""

import math

import numpy as np
import pandas as pd

from producer.incidents import KINDS, SCENARIOS
from producer.noise import Noise
from producer.profiles import NAMES as PROFILE_NAMES
from producer.profiles import PROFILES
from producer.vitals import DEFAULT_THRESHOLD, PERCENTAGES, STATUSES, Vitals
from producer.vitals import NAMES as METRIC_NAMES
from schemas.batch import Codes, EventBatch, Floats, Ints, Objects
from schemas.contract import Contract
from schemas.errors import InputError
from schemas.fields import ContractField

_BLOCK_MS = 1_800_000  # a category that the simulator does not know may change every half hour
# Servers' rhythm needs the threshold above the usual values: with another one, incidents rise to the default.
_THRESHOLDS = (70.0, 99.0)


class Fleet:
    """``servers`` servers, a function of seed, server and time.

    The same server has the same values at the same time in every fleet of its seed and scenario, however the time is
    chunked and whatever the interval; see `producer.noise`.

    Attributes:
        contract: what the events are made of. Its fields that the simulator knows by name get their metric; other
            numbers get a rhythm within their bounds, other enums one of their symbols.
        ids: [S] str, such as ``web-0001``.
    """

    def __init__(self, contract: Contract, servers: int, seed: int, scenario: str = "mixed", prefix: str = "") -> None:
        """Draw the servers; ``prefix`` stands before each id, so that several fleets can be put together.

        Raises:
            InputError: naming the argument and its value.
        """
        if servers < 1:
            raise InputError(f"servers: {servers} is too few")
        if scenario not in SCENARIOS:
            raise InputError(f"scenario: {scenario!r} is none of {', '.join(SCENARIOS)}")
        self.contract = contract
        known = {field.name: field for field in contract.reals if _is_known(field)}
        self._known_reals = frozenset(known)
        thresholds = {name: _threshold(known[name]) for name in PERCENTAGES if name in known}
        self._vitals = Vitals(seed, servers, scenario, thresholds)
        self._noise = Noise(seed, np.arange(servers))
        self.ids = np.array([prefix + name for name in server_ids(self._vitals.profile)], dtype=object)

    def __len__(self) -> int:
        return len(self.ids)

    def metrics(self, start_ms: int, interval_s: float, n_steps: int) -> EventBatch:
        """The events of ``n_steps`` ticks.

        Args:
            start_ms: time of the first tick.
            interval_s: seconds between ticks.
            n_steps: ticks.

        Returns:
            All servers at the first tick, then all at the next; a server that is away has no row, so these are
            n_steps x servers rows at most.
        """
        time_ms = start_ms + np.arange(n_steps, dtype=np.int64) * round(interval_s * 1000)
        contract, batch = self.contract, EventBatch.allocate(self.contract, n_steps * len(self))
        batch.keys[:] = np.tile(self.ids, n_steps)
        batch.time[:] = np.repeat(time_ms, len(self))
        known, status = self._vitals.at(time_ms)
        busy = self._vitals.activity(time_ms) if len(self._known_reals) < len(contract.reals) else None
        for column, field in enumerate(contract.reals):
            values = known[field.name] if field.name in self._known_reals else self._rhythm(field, time_ms, busy)
            batch.reals[:, column] = _within(values, field).ravel()
        for column, field in enumerate(contract.enums):
            batch.enums[:, column] = self._symbols(field, time_ms, status).ravel()
        for column, field in enumerate(contract.labels):
            batch.labels[:, column] = np.tile(self._label(field), n_steps)
        there = self._vitals.lives.present(time_ms)
        return batch if there.all() else batch.take(there.ravel())

    def incidents(self, start_ms: int, end_ms: int) -> pd.DataFrame:
        """The incidents that touch [start, end): server_id, kind, lead_in_start, breach_start, end (times UTC)."""
        found = self._vitals.incidents(start_ms, end_ms)

        def times(ms: Ints) -> pd.DatetimeIndex:
            return pd.DatetimeIndex(ms.astype("datetime64[ms]")).tz_localize("UTC")

        return pd.DataFrame(
            {
                "server_id": pd.array(self.ids[found.server], dtype="str"),
                "kind": pd.array(np.array([kind.name for kind in KINDS])[found.kind], dtype="str"),
                "lead_in_start": times(found.lead_in_start),
                "breach_start": times(found.breach_start),
                "end": times(found.end),
            }
        )

    def _rhythm(self, field: ContractField, time_ms: Ints, busy: Floats | None) -> Floats:
        """[T, S] an unknown number: day and week, a level of each server, noise, bursts; within the field's bounds."""
        low, high = _bounds(field)
        level = self._noise.between(f"{field.name} level", 0.1, 0.3)
        noise = 0.06 * self._noise.wander(field.name, time_ms, (900, 7_200, 86_400))
        noise += 0.01 * self._noise.white(f"{field.name} sample", time_ms[:, None])
        noise += 0.01 * self._noise.bursts(f"{field.name} bursts", time_ms, 1_500, np.full(len(self), 0.06))
        return low + (high - low) * np.clip(level + 0.4 * (0.0 if busy is None else busy) + noise, 0.0, 1.0)

    def _symbols(self, field: ContractField, time_ms: Ints, status: Codes) -> Codes:
        """[T, S] positions among the field's symbols."""
        shape = (len(time_ms), len(self))
        if field.name == "status" and set(STATUSES) <= set(field.symbols):
            return np.array([field.symbols.index(name) for name in STATUSES], np.int16)[status]
        if field.name == "profile" and set(PROFILE_NAMES) <= set(field.symbols):
            codes = np.array([field.symbols.index(name) for name in PROFILE_NAMES], np.int16)[self._vitals.profile]
            return np.broadcast_to(codes, shape)
        fixed = (self._noise.uniform(field.name) * len(field.symbols)).astype(np.int16)
        if field.role != "category":
            return np.broadcast_to(fixed, shape)
        # Mostly the first symbol; now and then, for half an hour, any.
        drawn = self._noise.uniform(field.name, time_ms[:, None] // _BLOCK_MS) * 8.0
        return np.where(drawn < 1.0, (drawn * len(field.symbols)).astype(np.int16), np.int16(0))

    def _label(self, field: ContractField) -> Objects:
        """[S] text or truth that does not change."""
        drawn = self._noise.uniform(field.name)
        if field.avro == "boolean":
            return (drawn < 0.5).astype(object)
        return np.array([f"{field.name}-{int(u * 8)}" for u in drawn], dtype=object)


def server_ids(profile: Ints) -> Objects:
    """[S] ids such as ``web-0001``: the profile's prefix and the server's number in the fleet, from 1."""
    prefixes = [p.prefix for p in PROFILES.values()]
    return np.array([f"{prefixes[p]}-{i:04d}" for i, p in enumerate(profile, 1)], dtype=object)


def default_interval_s(contract: Contract) -> int:
    """Seconds between the samples of a server: a minute, but never longer than a step."""
    return min(60, contract.settings.step_seconds)


def first_tick_ms(time_ms: int, interval_s: float) -> int:
    """The first tick at or after a time; ticks are multiples of the interval since the epoch."""
    interval_ms = round(interval_s * 1000)
    return -(-time_ms // interval_ms) * interval_ms


def _is_known(field: ContractField) -> bool:
    """Whether the metric of the field's name fits into its bounds; if not, it is another metric of that name."""
    if field.name not in METRIC_NAMES or field.avro in ("int", "long") or (field.minimum or 0) > 0:
        return False
    return field.maximum is None or (field.name in PERCENTAGES and field.maximum >= 100)


def _threshold(field: ContractField) -> float:
    low, high = _THRESHOLDS
    limit = field.breach_above
    if limit is None or not low <= limit <= high:
        return DEFAULT_THRESHOLD
    return math.ceil(limit * 1000 - 1e-6) / 1000  # metrics come in thousandths


def _bounds(field: ContractField) -> tuple[float, float]:
    low, high = field.minimum, field.maximum
    if low is None:
        low = 0.0 if high is None or high > 0 else high - 100.0
    return low, low + 100.0 if high is None else high


def _within(values: Floats, field: ContractField) -> Floats:
    """Whole numbers where the contract wants them; zero for missing where null is not allowed."""
    if field.avro in ("int", "long"):
        low, high = _bounds(field)
        return np.clip(np.rint(values), math.ceil(low), math.floor(high))
    return values if field.nullable else np.nan_to_num(values)
