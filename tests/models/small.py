"""Small models of random weights, to be saved and loaded."""

import torch

from models.artifact import Trained
from models.layout import Layout, Scaling
from models.network import build_network
from models.network_size import NetworkSize
from schemas.contract import Contract
from tests import contracts

VERSION = "tft_model_20260101_000000"
SMALL = NetworkSize(hidden_size=8, attention_head_size=2, hidden_continuous_size=4)
KNOWN = ["hour", "season_lag"]
RICH = contracts.rich(known=KNOWN)


def plain_scaling(layout: Layout) -> Scaling:
    ones = dict.fromkeys(layout.targets, 1.0)
    covariates = dict.fromkeys(layout.covariates, (0.5, 2.0))
    return Scaling(floor=dict.fromkeys(layout.targets, 0.01), level=ones, spread=ones, covariates=covariates)


def small_trained(contract: Contract, size: NetworkSize = SMALL, seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    layout = Layout(contract)
    scaling = plain_scaling(layout)
    unseen = {"state": ["down"]} if contract is RICH else {}
    return Trained(build_network(layout, scaling, size), layout, scaling, size, unseen, {"note": "test"})
