"""The conformal offsets of an artifact, read without PyTorch."""

from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from models.untrusted import refuse

OFFSETS = "conformal_offsets"  # their tensor, beside the network's


def read_offsets(path: Path, data: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """[targets, quantiles, horizon] in the network's units, from the bytes of the weights' file.

    Raises:
        ArtifactError: they are not there, or of another shape.
    """
    try:
        offsets: NDArray[np.float32] = safetensors.numpy.load(data)[OFFSETS]
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        refuse(path, f"it is damaged: {error}")
    if offsets.shape != shape or offsets.dtype != np.float32 or not np.isfinite(offsets).all():
        refuse(path, f"its {OFFSETS} are not finite float32 of {shape}")
    return offsets
