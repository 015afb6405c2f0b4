"""Models whose output is known: the network's last layer gives its bias, whatever it sees."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models import artifact
from models.artifact import Model, Trained
from models.layout import Layout, Scaling
from models.network import build_network
from models.network_size import NetworkSize
from schemas.batch import EventBatch
from schemas.contract import Contract

START_STEP = 170_000_001


def affine_trained(contract: Contract, biases: Sequence[float] | None = None) -> Trained:
    """Each quantile is the last value + bias x (mean absolute difference + 1); persistence without biases."""
    layout = Layout(contract)
    scaling = Scaling(
        floor=dict.fromkeys(layout.targets, 1.0),
        level=dict.fromkeys(layout.targets, 0.0),
        spread=dict.fromkeys(layout.targets, 1.0),
        covariates=dict.fromkeys(layout.covariates, (0.0, 1.0)),
    )
    size = NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4)
    network = build_network(layout, scaling, size)
    last = network.output_layer
    with torch.no_grad():
        for layer in last if len(layout.targets) > 1 else [last]:
            layer.weight.zero_()
            layer.bias.copy_(torch.asinh(torch.tensor(biases if biases is not None else [0.0] * len(layer.bias))))
    return Trained(network, layout, scaling, size, unseen={}, metadata={})


def affine_model(contract: Contract, folder: Path, biases: Sequence[float] | None = None) -> Model:
    """``affine_trained``, saved and loaded again."""
    trained = affine_trained(contract, biases)
    return artifact.load(artifact.save(folder, "tft_model_20260101_000000", trained, card="affine"))


def series(contract: Contract, **servers: Sequence[float | None]) -> EventBatch:
    """One event in the middle of each step from ``START_STEP`` on, the same value for all reals; None is no event.

    With a lateness of half a step, each event closes the step before its own: the last step stays open.
    """
    rows = [
        (START_STEP + i, key, value)
        for key, values in servers.items()
        for i, value in enumerate(values)
        if value is not None
    ]
    rows.sort(key=lambda row: row[0])
    batch = EventBatch.allocate(contract, len(rows))
    batch.keys[:] = [key for _, key, _ in rows]
    batch.time[:] = np.array([step for step, _, _ in rows]) * contract.step_ms + contract.step_ms // 2
    batch.reals[:] = np.array([value for _, _, value in rows])[:, None]
    batch.enums[:] = 0
    return batch
