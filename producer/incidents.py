"""Incidents: what goes wrong when, with a lead-in, and what it does to the numbers.

An incident raises one metric from its usual value to the breach threshold during the lead-in, reaches the threshold at
``breach_start``, stays at or above it until ``end``, and is made good during the recovery. Nothing else breaches, so
the labels are the whole truth.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from producer.lives import Lives
from producer.noise import Noise
from producer.profiles import DATABASE, GROUP_SIZE, WEB, profile_of
from schemas.batch import Floats, Ints
from schemas.column_batch import ColumnBatch

MINUTE_MS, HOUR_MS, DAY_MS, WEEK_MS = 60_000, 3_600_000, 86_400_000, 604_800_000
MONDAY_MS = 4 * DAY_MS  # 1970-01-05, a Monday
RECOVERY_MS = 30 * MINUTE_MS
# Longest lead-in and breach of any kind, and the web servers' delay: no incident reaches further from its day's start.
_REACH_MS = 3 * DAY_MS


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of incident: the metric that breaches, and ranges of the lead-in and of the breach in minutes."""

    name: str
    metric: str
    lead_minutes: tuple[float, float]
    breach_minutes: tuple[float, float]


KINDS = (
    Kind("leak", "memory_percent", (180, 600), (20, 90)),
    Kind("disk_fill", "disk_percent", (240, 720), (30, 120)),
    Kind("runaway_job", "cpu_percent", (35, 90), (20, 120)),
    Kind("noisy_neighbour", "cpu_percent", (40, 120), (15, 60)),
    Kind("cascade", "cpu_percent", (40, 100), (20, 75)),
)
NEIGHBOUR, CASCADE = 3, 4
# Scenario to incidents a server and day, and cascades a group and day.
SCENARIOS = {"healthy": (0.0, 0.0), "mixed": (0.08, 0.02), "degrading": (0.2, 0.06), "critical": (0.7, 0.3)}


@dataclass(frozen=True, slots=True)
class Incidents(ColumnBatch):
    """``n`` incidents as columns [n]; times in ms since the epoch, ``peak`` 0..1 of the room above the threshold."""

    server: Ints
    kind: Ints
    lead_in_start: Ints
    breach_start: Ints
    end: Ints
    peak: Floats

    def ordered(self) -> Self:
        """The same by lead-in, then server."""
        return self.take(np.lexsort((self.kind, self.server, self.lead_in_start)))


class Schedule:
    """When incidents and maintenance happen to the servers of a fleet."""

    def __init__(self, seed: int, servers: int, scenario: str, metrics: frozenset[str]) -> None:
        """``metrics``: those that the contract has; incidents of others do not happen."""
        self.lives = Lives(seed, servers, scenario)
        self._servers = np.arange(servers)
        self._profile = profile_of(self._servers)
        self._noise = Noise(seed, self._servers)
        self._groups = Noise(seed, np.arange(-(-servers // GROUP_SIZE)))
        self._rate, self._cascade_rate = SCENARIOS[scenario]
        self._single = np.array([i for i, kind in enumerate(KINDS) if kind.metric in metrics and i != CASCADE])
        self._cascades = KINDS[CASCADE].metric in metrics
        night = self._noise.between("maintenance hour", 1.0, 4.0)
        weekday = np.floor(self._noise.between("maintenance day", 0, 7))
        self._window_start = ((weekday * 24 + night) * HOUR_MS).astype(np.int64)  # [S] in the week
        self._window = (self._noise.between("maintenance length", 30, 75) * MINUTE_MS).astype(np.int64)

    def maintenance(self, time_ms: Ints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """[T, S] twice: in the server's weekly window; and within it, off for its restart (the middle fifth)."""
        since = (time_ms[:, None] - MONDAY_MS - self._window_start) % WEEK_MS
        return since < self._window, (since >= self._window * 2 // 5) & (since < self._window * 3 // 5)

    def between(self, start_ms: int, end_ms: int) -> Incidents:
        """Those whose lead-in, breach or recovery touches [start, end)."""
        days = np.arange((start_ms - _REACH_MS) // DAY_MS, (end_ms - 1) // DAY_MS + 1)
        found = Incidents.concat([self._singles(days), self._cascading(days)]).ordered()
        touches = (found.lead_in_start < end_ms) & (found.end + RECOVERY_MS > start_ms)
        return found.take(touches & ~self._in_maintenance(found) & ~self._away(found))

    def _singles(self, days: Ints) -> Incidents:
        """At most one a server and day."""
        noise, day = self._noise, days[:, None]
        happens = noise.uniform("incident", day) < (self._rate if len(self._single) else 0.0)
        row, server = np.nonzero(happens)

        def draw(stream: str) -> Floats:
            return noise.uniform(stream, day)[row, server]

        kind = np.zeros(len(row), np.int64)
        if len(row):
            kind = self._single[(draw("kind") * len(self._single)).astype(np.int64)]
        lead_in_start = days[row] * DAY_MS + (draw("start") * DAY_MS).astype(np.int64)
        return _timed(server, kind, lead_in_start, lead=draw("lead"), breach=draw("breach"), peak=draw("peak"))

    def _cascading(self, days: Ints) -> Incidents:
        """A group's databases first, then its web servers, a few minutes later."""
        day = days[:, None]
        happens = self._groups.uniform("cascade", day) < (self._cascade_rate if self._cascades else 0.0)
        start = day * DAY_MS + (self._groups.uniform("cascade start", day) * DAY_MS).astype(np.int64)
        group = self._servers // GROUP_SIZE
        hit = (self._profile == DATABASE) | (self._profile == WEB)
        row, server = np.nonzero(happens[:, group] & hit)

        def draw(stream: str) -> Floats:
            return self._noise.uniform(f"cascade {stream}", day)[row, server]

        minutes = np.where(self._profile[server] == WEB, 8 + 10 * draw("delay"), 2 * draw("delay"))
        lead_in_start = start[row, group[server]] + (minutes * MINUTE_MS).astype(np.int64)
        # One cause: all of a group take about as long.
        shared = self._groups.uniform("cascade lead", day)[row, group[server]]
        kind = np.full(len(row), CASCADE)
        breach = 0.5 * shared + 0.5 * draw("breach")
        return _timed(server, kind, lead_in_start, lead=shared, breach=breach, peak=draw("peak"))

    def _in_maintenance(self, found: Incidents) -> NDArray[np.bool_]:
        """A restart would end it: such incidents do not happen, which keeps the labels true."""
        since = (found.lead_in_start - MONDAY_MS - self._window_start[found.server]) % WEEK_MS
        lasts = found.end + RECOVERY_MS - found.lead_in_start
        return (since < self._window[found.server]) | (since + lasts > WEEK_MS)

    def _away(self, found: Incidents) -> NDArray[np.bool_]:
        """A machine that is replaced meanwhile: the rest of the incident would have no rows."""
        return self.lives.away_between(found.server, found.lead_in_start, found.end + RECOVERY_MS)


def _timed(server: Ints, kind: Ints, start: Ints, *, lead: Floats, breach: Floats, peak: Floats) -> Incidents:
    """``lead`` and ``breach``: 0..1 within the kind's ranges."""
    ranges = np.array([(*k.lead_minutes, *k.breach_minutes) for k in KINDS])[kind].reshape(-1, 4)
    lead_ms = ((ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * lead) * MINUTE_MS).astype(np.int64)
    breach_ms = ((ranges[:, 2] + (ranges[:, 3] - ranges[:, 2]) * breach) * MINUTE_MS).astype(np.int64)
    return Incidents(server, kind, start, start + lead_ms, start + lead_ms + breach_ms, 0.3 + 0.7 * peak)


@dataclass(frozen=True, slots=True)
class Strain:
    """What incidents do beside their own metric, [T, S] each.

    Attributes:
        stress: 0..1, how far into an incident; 1 while it breaches.
        stolen: the same for noisy neighbours alone.
        recovering: after an incident's end.
    """

    stress: Floats
    stolen: Floats
    recovering: NDArray[np.bool_]


def strike(incidents: Incidents, time_ms: Ints, metrics: dict[str, Floats], thresholds: dict[str, float]) -> Strain:
    """Write the incidents into their metrics.

    Args:
        incidents: those that touch the times.
        time_ms: [T] ascending.
        metrics: name to [T, S], changed in place; below their threshold before.
        thresholds: name to the value that an incident reaches at its breach.
    """
    shape = next(iter(metrics.values())).shape
    strain = Strain(np.zeros(shape), np.zeros(shape), np.zeros(shape, bool))
    for i in range(len(incidents.server)):
        kind, server = KINDS[incidents.kind[i]], incidents.server[i]
        edges = (incidents.lead_in_start[i], incidents.breach_start[i], incidents.end[i])
        a, b, c, d = np.searchsorted(time_ms, (*edges, edges[2] + RECOVERY_MS))
        column, limit = metrics[kind.metric][:, server], thresholds[kind.metric]
        lead = (time_ms[a:b] - edges[0]) / (edges[1] - edges[0])
        column[a:b] += (limit - column[a:b]) * lead * (0.6 + 0.4 * lead)
        into = (time_ms[b:c] - edges[1]) / MINUTE_MS
        room = (100.0 - limit) * incidents.peak[i]
        # The usual ups and downs stay visible, at a tenth of their size, above the threshold.
        column[b:c] = limit + 0.9 * room * into / (into + 10.0) + 0.1 * room * column[b:c] / 100.0
        left = 1.0 - (time_ms[c:d] - edges[2]) / RECOVERY_MS
        column[c:d] += np.maximum(0.9 * limit - column[c:d], 0.0) * left * left
        stress = np.concatenate([lead * lead, np.ones(c - b), left * left])
        for grid in (strain.stress, strain.stolen) if incidents.kind[i] == NEIGHBOUR else (strain.stress,):
            grid[a:d, server] = np.maximum(grid[a:d, server], stress)
        strain.recovering[c:d, server] = True
    return strain
