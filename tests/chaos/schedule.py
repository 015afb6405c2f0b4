"""Which disturbances come, in which order and at whom: all of it from a seed, so that a run can be repeated."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Cause = Literal["kill", "churn", "broker", "stop", "registry"]
Aim = Literal["any", "transaction", "start", "restore"]
_AIMS: tuple[Aim, ...] = ("any", "transaction", "any", "restore", "start")
SESSION_SECONDS = 6.0  # group.consumer.session.timeout.ms of devstack's broker
_LASTS = {"kill": (0.0, 3.0), "churn": (0.0, 0.0), "broker": (0.5, 4.0), "registry": (3.0, 8.0)}
_PAUSE = (1.0, 4.0)
_MEMBER_STARTS = 5.0  # torch is loaded, the group is joined
_PLANNED = {"kill": 5.0, "churn": 4.0, "broker": 8.0, "stop": 3.0, "registry": 8.0}  # beside the pause and its length


@dataclass(frozen=True, slots=True)
class Counts:
    """How many disturbances of each kind."""

    kill: int = 20
    churn: int = 10
    broker: int = 3
    stop: int = 3
    registry: int = 2


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One of them.

    Attributes:
        cause: what is done.
        aim: of a kill: when; ``any`` moment, inside a ``transaction``, or while the victim, killed before, ``start``s
            again or ``restore``s.
        same: of a kill: the same instance comes back at once; else another one is started in its place.
        victim: in [0, 1): which of the members.
        seconds: how long it lasts; of a kill: how long after the start it comes where that is its aim.
        pause: seconds of peace afterwards.
    """

    cause: Cause
    aim: Aim
    same: bool
    victim: float
    seconds: float
    pause: float

    @property
    def planned_seconds(self) -> float:
        """A guess that paces the load."""
        twice = _MEMBER_STARTS if self.aim in ("start", "restore") else 0.0
        return self.pause + self.seconds + _PLANNED[self.cause] + twice


def schedule(counts: Counts, seed: int) -> list[Disturbance]:
    """The disturbances in their order."""
    rng = np.random.default_rng(seed)
    causes: list[tuple[Cause, int]] = [
        (cause, number)
        for cause in ("kill", "churn", "broker", "stop", "registry")
        for number in range(getattr(counts, cause))
    ]
    order = rng.permutation(len(causes))
    return [_disturbance(cause, number, rng) for cause, number in (causes[i] for i in order)]


def _disturbance(cause: Cause, number: int, rng: np.random.Generator) -> Disturbance:
    # A stop of less than the session timeout would disturb nobody.
    low, high = (SESSION_SECONDS + 1, SESSION_SECONDS + 5) if cause == "stop" else _LASTS[cause]
    return Disturbance(
        cause=cause,
        aim=_AIMS[number % len(_AIMS)] if cause == "kill" else "any",
        same=number % 2 == 0,  # five aims and two ways: every pair of them comes
        victim=float(rng.random()),
        seconds=float(rng.uniform(low, high)),
        pause=float(rng.uniform(*_PAUSE)),
    )
