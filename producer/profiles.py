"""What kinds of servers a fleet has: constants of each profile."""

from dataclasses import dataclass

import numpy as np

from schemas.batch import Floats, Ints

WEEK_HOURS = 168


@dataclass(frozen=True, slots=True)
class Profile:
    """Levels of one kind of server; percentages where nothing else is said.

    Attributes:
        prefix: of the server's id.
        cpu: level at rest, and rise at full activity.
        cpu_noise: standard deviation of the wandering.
        memory: level at rest, and rise at full activity.
        gc: size of the garbage collector's sawtooth, and its period in minutes.
        disk: level after cleaning, before cleaning, and days between.
        cores: sizes a machine may have.
        io: disk MB/s, network in MB/s, network out MB/s at full activity.
        latency_ms: at rest.
        weekday: activity in percent at each hour (UTC).
        weekend: as ``weekday``.
    """

    prefix: str
    cpu: tuple[float, float]
    cpu_noise: float
    memory: tuple[float, float]
    gc: tuple[float, float]
    disk: tuple[float, float, float]
    cores: tuple[int, ...]
    io: tuple[float, float, float]
    latency_ms: float
    weekday: tuple[int, ...]
    weekend: tuple[int, ...]


# fmt: off
# Percent of full activity at each hour from 0:00 UTC.
_OFFICE = (8, 6, 5, 5, 6, 10, 22, 55, 92, 100, 95, 88, 78, 86, 92, 90, 82, 66, 46, 34, 26, 20, 15, 10)
_EVENING = (25, 18, 12, 10, 10, 14, 25, 42, 62, 70, 72, 76, 82, 80, 76, 76, 80, 88, 96, 100, 96, 80, 58, 38)
_NIGHT = (85, 95, 100, 100, 92, 70, 40, 22, 16, 14, 14, 15, 18, 16, 14, 14, 15, 18, 22, 28, 35, 45, 58, 72)
_FLAT = (48, 46, 45, 45, 46, 48, 50, 52, 55, 56, 56, 55, 54, 55, 56, 56, 55, 54, 52, 52, 51, 50, 50, 49)
_CLOSE = (12, 10, 8, 8, 8, 10, 18, 40, 60, 66, 64, 62, 60, 64, 74, 86, 98, 100, 84, 55, 36, 26, 20, 15)
_QUIET = (6, 5, 5, 5, 5, 5, 6, 8, 12, 15, 17, 18, 18, 18, 18, 17, 16, 15, 14, 13, 12, 10, 8, 7)
# fmt: on

# In the order of this table servers are counted; a contract's symbols may stand in another.
PROFILES: dict[str, Profile] = {
    "ml_compute": Profile(
        "ml", (14, 58), 8.0, (38, 30), (1.2, 35), (35, 76, 5.0), (32, 64), (220, 60, 20), 40.0, _NIGHT, _NIGHT
    ),
    "database": Profile(
        "db", (16, 36), 4.5, (58, 12), (0.6, 60), (48, 78, 9.0), (16, 32), (260, 70, 90), 4.0, _OFFICE, _QUIET
    ),
    "web_api": Profile(
        "web", (10, 48), 5.5, (32, 24), (2.2, 12), (28, 60, 4.0), (4, 8, 16), (20, 80, 130), 45.0, _EVENING, _EVENING
    ),
    "conductor_mgmt": Profile(
        "ctl", (9, 22), 3.0, (36, 12), (1.8, 25), (30, 58, 11.0), (4, 8), (15, 12, 14), 20.0, _OFFICE, _QUIET
    ),
    "data_ingest": Profile(
        "ing", (18, 40), 6.5, (40, 20), (1.8, 15), (40, 80, 2.0), (8, 16), (320, 180, 60), 15.0, _FLAT, _FLAT
    ),
    "risk_analytics": Profile(
        "risk", (8, 66), 6.0, (34, 36), (2.5, 18), (34, 70, 6.0), (16, 32), (110, 40, 30), 120.0, _CLOSE, _QUIET
    ),
    "generic": Profile(
        "srv", (10, 26), 4.5, (36, 14), (1.2, 30), (30, 64, 8.0), (2, 4, 8), (30, 15, 15), 30.0, _OFFICE, _QUIET
    ),
}
NAMES = tuple(PROFILES)
DATABASE, WEB = NAMES.index("database"), NAMES.index("web_api")
# One group of servers, over and over: who stands beside whom does not depend on the fleet's size, and a fleet of 15 has
# every kind. Databases and web servers of a group fail together (`producer.incidents`).
_GROUP = ("web_api", "database", "web_api", "ml_compute", "data_ingest", "web_api", "risk_analytics", "conductor_mgmt",
          "database", "generic", "web_api", "ml_compute", "generic", "data_ingest", "web_api")  # fmt: skip
GROUP_SIZE = len(_GROUP)


def profile_of(server: Ints) -> Ints:
    """[S] position in ``NAMES`` of each server's profile."""
    return np.array([NAMES.index(name) for name in _GROUP])[server % GROUP_SIZE]


def week_table() -> Floats:
    """[profiles, 168 + 1] activity 0..1 at each hour of the week from Monday 0:00 UTC; the last repeats the first."""
    weeks = [profile.weekday * 5 + profile.weekend * 2 for profile in PROFILES.values()]
    return np.array([(*week, week[0]) for week in weeks], np.float64) / 100.0
