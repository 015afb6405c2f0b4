"""Batches of windows for training, gathered from the history's arrays as they are needed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from models.episodes import QUIET_STEPS, watched
from models.samples import History, Samples
from models.split import spread
from models.windows import WindowBatch
from schemas.batch import Ints

_LOOK_ROWS = 4096
_COURSE_STEPS = 2
CHUNK_ROWS = 16  # activations of 16 windows stay in cache; also the unit that cores share out


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some windows of a batch.

    Attributes:
        windows: [n]. future: [n, horizon, targets] what came after; NaN where nothing was observed.
        seed: of the chunk's dropout.
    """

    windows: WindowBatch
    future: Tensor
    seed: int


def chunks(history: History, samples: Samples, lengths: Ints | None = None, seed: int = 0) -> list[Chunk]:
    """The samples in chunks of ``CHUNK_ROWS``."""
    made: list[Chunk] = []
    for start in range(0, len(samples), CHUNK_ROWS):
        part = samples.take(slice(start, start + CHUNK_ROWS))
        windows = history.windows(part, None if lengths is None else lengths[start : start + CHUNK_ROWS])
        made.append(Chunk(windows, torch.from_numpy(history.future(part)), seed + len(made)))
    return made


class WindowStream(IterableDataset[list[Chunk]]):
    """An epoch at a time: windows drawn at random without replacement, half of them of random shorter length.

    Attributes:
        seen: by category or static of the contract, the symbols' positions that were in any window so far.
    """

    def __init__(
        self,
        history: History,
        samples: Samples,
        *,
        epoch_windows: int,
        batch_size: int,
        seed: int,
        breach_share: float = 0.0,
        heading_share: float = 0.0,
    ) -> None:
        """``samples`` to draw from; the shares are of an epoch's windows.

        ``breach_share``: those with a breach near. ``heading_share``: those that head for one, near or not.
        """
        self._history, self._samples = history, samples
        self._epoch_windows, self._batch_size, self._seed = min(epoch_windows, len(samples)), batch_size, seed
        contract = history.contract
        self.seen: dict[str, set[int]] = {f.name: set() for f in (*contract.categories, *contract.statics)}
        self.epoch = 0
        self._pools = [  # which windows, and how many of them an epoch holds
            (np.flatnonzero(look(history, samples)), round(share * self._epoch_windows))
            for look, share in ((breach_near, breach_share), (heading_for_breach, heading_share))
            if share
        ]

    def __len__(self) -> int:
        """Batches an epoch."""
        return math.ceil(self._epoch_windows / self._batch_size)

    def __iter__(self) -> Iterator[list[Chunk]]:
        """The epoch numbered ``epoch``."""
        rng = np.random.default_rng([self._seed, self.epoch])
        rows = self._drawn(rng)
        for start in range(0, len(rows), self._batch_size):
            samples = self._samples.take(rows[start : start + self._batch_size])
            batch = chunks(self._history, samples, self._lengths(samples, rng), int(rng.integers(2**62)))
            self._note(batch)
            yield batch

    def _drawn(self, rng: np.random.Generator) -> Ints:
        every = rng.permutation(len(self._samples))
        chosen: Ints = np.array([], np.int64)
        for pool, count in self._pools:
            chosen = np.concatenate([chosen, rng.permutation(np.setdiff1d(pool, chosen))[:count]])
        others = every[~np.isin(every, chosen)][: self._epoch_windows - len(chosen)]
        return rng.permutation(np.concatenate([chosen, others]))

    def _lengths(self, samples: Samples, rng: np.random.Generator) -> Ints:
        """Lengths between min_encoder_steps and what there is."""
        settings = self._history.contract.settings
        full = np.minimum(samples.available, settings.encoder_steps)
        random = rng.integers(settings.min_encoder_steps, full + 1)
        return np.where(rng.random(len(full)) < 0.5, random, full)

    def _note(self, batch: list[Chunk]) -> None:
        contract = self._history.contract
        for windows in (chunk.windows for chunk in batch):
            inside = np.arange(windows.categories.shape[1]) < windows.lengths[:, None]
            for column, field in enumerate(contract.categories):
                self.seen[field.name].update(np.unique(windows.categories[inside][:, column]).tolist())
            for column, field in enumerate(contract.statics):
                self.seen[field.name].update(np.unique(windows.statics[:, column]).tolist())


def breach_near(history: History, samples: Samples) -> NDArray[np.bool_]:
    """[n] whether an episode of a watched target begins in the first quarter of a window's horizon."""
    return _outside_episodes(history, samples, lambda part, _: history.future(part)[:, : _ahead(history)])


def heading_for_breach(history: History, samples: Samples) -> NDArray[np.bool_]:
    """[n] whether an episode of a watched target would begin if it went on as in its last steps.

    Its mean change over ``_COURSE_STEPS`` steps is carried on for a quarter of the horizon. What came after does not
    tell: that a breach is not as likely as among ``breach_near`` is what these windows teach (docs/adr/0010).
    """

    def course(_: Samples, past: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        change = (past[:, -1] - past[:, -1 - _COURSE_STEPS]) / _COURSE_STEPS
        return (past[:, -1] + _ahead(history) * change)[:, None]

    return _outside_episodes(history, samples, course)


def _ahead(history: History) -> int:
    return max(history.contract.settings.horizon_steps // 4, 1)


def _outside_episodes(
    history: History,
    samples: Samples,
    following: Callable[[Samples, NDArray[np.float32]], NDArray[np.floating[Any]]],
) -> NDArray[np.bool_]:
    """[n] which windows are outside all episodes of some watched target that ``following`` has beyond its threshold.

    ``following``: from samples and their last values [B, ``QUIET_STEPS``, targets] to [B, steps, targets].
    """
    targets = watched(history.contract)
    found = np.zeros(len(samples), bool)
    for start in range(0, len(samples), _LOOK_ROWS) if targets else ():
        part = samples.take(slice(start, start + _LOOK_ROWS))
        past = history.past(part, np.arange(QUIET_STEPS - 1, -1, -1))
        values = following(part, past)
        for target in targets:
            found[start : start + len(part)] |= target.beyond(values).any(axis=1) & ~target.beyond(past).any(axis=1)
    return found


def validation_chunks(history: History, samples: Samples, most: int) -> list[Chunk]:
    """At most ``most`` windows, evenly spread over servers and time, of full length where there is."""
    return chunks(history, samples.take(spread(samples, most))) if len(samples) else []
