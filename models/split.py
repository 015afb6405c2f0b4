"""Which windows train, which choose the number of epochs and calibrate, and which servers are never looked at.

No step of a validation horizon lies in any training window, of any server; held-out servers are in neither part.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.samples import History, Samples
from schemas.batch import Ints
from schemas.errors import DataError

_HOLDOUT_FROM = 20  # servers; with fewer, each is needed
_HOLDOUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Split:
    """The parts.

    Attributes:
        train: windows that end before ``first_validation_step``. validation: those issued at it or later.
        everything: all windows of the servers that were not held out, for the refit.
        held_out: [h] slots of servers that are in none of these.
    """

    train: Samples
    validation: Samples
    everything: Samples
    first_validation_step: int
    held_out: Ints


def split(history: History, fraction: float, holdout_servers: int | None = None, seed: int = 0) -> Split:
    """The last ``fraction`` of time validates; horizons that straddle the cut are left out.

    Args:
        history: all of it.
        fraction: of the time, for validation.
        holdout_servers: how many servers are held out; by default a tenth, and none of fewer than 20.
        seed: which ones.

    Raises:
        DataError: too little data, with how much there is and how much is needed.
    """
    settings = history.contract.settings
    first, last = int(history.step.min()), int(history.step.max())
    needed = settings.min_encoder_steps + 2 * settings.horizon_steps
    if last - first + 1 < needed:
        raise DataError(
            f"the data spans {last - first + 1} steps of {settings.step_seconds} s; training needs at least "
            f"min_encoder_steps + 2 x horizon_steps = {needed}"
        )
    cut = max(last + 1 - max(round(fraction * (last - first + 1)), settings.horizon_steps), first)
    held_out = _held_out(len(history.keys), holdout_servers, seed)
    kept = history.samples.take(~np.isin(history.samples.slot, held_out))
    ends = kept.step + settings.horizon_steps
    train = kept.take(ends < cut)
    if not len(train):
        unknown = np.flatnonzero(~np.isfinite(history.reals[:, : len(history.contract.inputs)]).any(axis=0))
        if len(unknown):
            name = history.contract.inputs[unknown[0]].name
            raise DataError(f"{name} was never measured: a window begins where every input is known")
        raise DataError(
            f"no server has an unbroken window of {settings.min_encoder_steps} steps before a horizon: "
            f"a gap of more than max_gap_steps = {settings.max_gap_steps} ends a window"
        )
    return Split(train, kept.take((kept.step + 1 >= cut) & (ends <= last)), kept.take(ends <= last), cut, held_out)


def _held_out(servers: int, wanted: int | None, seed: int) -> Ints:
    if wanted is None:
        wanted = round(_HOLDOUT_SHARE * servers) if servers >= _HOLDOUT_FROM else 0
    if wanted >= servers:
        raise DataError(f"holdout_servers: {wanted} of {servers} servers leave none to train on")
    return np.sort(np.random.default_rng([seed, 1]).permutation(servers)[:wanted])


def spread(samples: Samples, most: int) -> NDArray[np.intp]:
    """At most ``most`` rows, one of each of as many equal stretches of the samples by server and time.

    Drawn at random (fixed seed) within its stretch: at equal distances the rows could meet the same hour every day.
    """
    order = np.lexsort((samples.step, samples.slot))
    count = min(most, len(order))
    edges = np.arange(count + 1) * len(order) // max(count, 1)
    return order[np.random.default_rng(0).integers(edges[:-1], edges[1:])]


def within(time_ms: Ints, since: int | None, until: int | None) -> NDArray[np.bool_]:
    """[n] which times lie in [since, until), in ms since the epoch; None is no bound.

    Raises:
        DataError: none does.
    """
    inside = np.ones(len(time_ms), bool)
    if since is not None:
        inside &= time_ms >= since
    if until is not None:
        inside &= time_ms < until
    if len(inside) and not inside.any():
        first, last = (str(np.datetime64(int(t), "ms")) for t in (time_ms.min(), time_ms.max()))
        raise DataError(f"no event lies between --since and --until: the data goes from {first} to {last}")
    return inside
