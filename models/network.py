"""The network: pytorch-forecasting's Temporal Fusion Transformer, built from the contract and a few sizes alone.

Lim et al., "Temporal Fusion Transformers for interpretable multi-horizon time series forecasting", 2021.
"""

import warnings

from pytorch_forecasting import TemporalFusionTransformer
from pytorch_forecasting.data import MultiNormalizer
from pytorch_forecasting.metrics import MultiLoss, QuantileLoss
from pytorch_forecasting.utils import get_embedding_size
from torch import nn

from models.layout import Layout, Scaling
from models.network_size import NetworkSize
from models.normalizer import WindowNormalizer


def build_network(layout: Layout, scaling: Scaling, size: NetworkSize) -> TemporalFusionTransformer:
    """A TFT with random weights. Its ``predict()`` on a fitting TimeSeriesDataSet gives raw units."""
    settings = layout.contract.settings
    n_targets, n_quantiles = len(layout.targets), len(settings.quantiles)
    losses = [QuantileLoss(quantiles=list(settings.quantiles)) for _ in layout.targets]
    normalizers = [WindowNormalizer(scaling.floor[t]) for t in layout.targets]
    sizes = {name: (len(v), get_embedding_size(len(v))) for name, v in layout.vocabulary.items()}
    with warnings.catch_warnings():  # lightning warns that modules are saved as hyper-parameters; none is saved
        warnings.filterwarnings("ignore", message=".*is already saved during checkpointing.*")
        warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module`.*")
        return TemporalFusionTransformer(
            **size.model_dump(),
            max_encoder_length=settings.encoder_steps,
            output_size=[n_quantiles] * n_targets if n_targets > 1 else n_quantiles,
            loss=MultiLoss(losses) if n_targets > 1 else losses[0],
            output_transformer=MultiNormalizer(normalizers) if n_targets > 1 else normalizers[0],
            logging_metrics=nn.ModuleList(),
            static_categoricals=layout.statics,
            static_reals=layout.static_reals,
            time_varying_categoricals_encoder=layout.categories,
            time_varying_categoricals_decoder=[],
            time_varying_reals_encoder=layout.known + layout.observed,
            time_varying_reals_decoder=layout.known,
            x_reals=layout.reals,
            x_categoricals=layout.statics + layout.categories,
            embedding_sizes=sizes,
            embedding_labels={name: {s: i for i, s in enumerate(v)} for name, v in layout.vocabulary.items()},
        )
