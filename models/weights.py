"""model.safetensors: the network's tensors and the conformal offsets, checked before any memory is taken for them."""

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor, nn

from models.layout import Layout, Scaling
from models.network import build_network
from models.network_size import NetworkSize
from models.offsets import OFFSETS
from models.untrusted import DAMAGED, MAX_JSON_BYTES, MAX_WEIGHTS_BYTES, open_regular, parse, refuse, sha256
from schemas.errors import InputError

_DTYPES = {torch.float32: "F32"}  # in words of safetensors


def pack(network: TemporalFusionTransformer, offsets: NDArray[np.float32] | None, origin: Mapping[str, str]) -> bytes:
    """The file's content; ``origin`` goes into its metadata.

    Raises:
        InputError: it is too large.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in _distinct(network).items()}
    if offsets is not None:
        tensors[OFFSETS] = torch.from_numpy(offsets).contiguous()
    data: bytes = safetensors.torch.save(tensors, metadata=dict(origin))
    if len(data) > MAX_WEIGHTS_BYTES:
        raise InputError(f"the weights take {len(data)} bytes, a model may have {MAX_WEIGHTS_BYTES}")
    return data


def unpack(
    path: Path, size: NetworkSize, layout: Layout, scaling: Scaling, *, calibrated: bool, origin: Mapping[str, str],
    expected_sha256: str,
) -> TemporalFusionTransformer:  # fmt: skip
    """Rebuild the network without memory, check the file's header against it, and only then take memory and read.

    Returns:
        The network in evaluation mode.

    Raises:
        ArtifactError: the file is not that network's, or damaged.
    """
    settings = layout.contract.settings
    with torch.device("meta"):
        expected = _distinct(build_network(layout, scaling, size))
        if calibrated:
            shape = (len(layout.targets), len(settings.quantiles), settings.horizon_steps)
            expected[OFFSETS] = torch.empty(shape)
    with open_regular(path, MAX_WEIGHTS_BYTES) as file:
        length = os.fstat(file.fileno()).st_size
        start = _read_start(path, file, length)
        header = parse(path, start[8:])
        _check_origin(path, header, origin)
        _check_table(path, header, expected, length - len(start))
        data = start + file.read(length - len(start))
    if sha256(data) != expected_sha256:
        refuse(path, DAMAGED)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        refuse(path, f"it is damaged: {error}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            refuse(path, f"tensor {name} holds something other than finite {tensor.dtype}")
    tensors.pop(OFFSETS, None)  # ``models.offsets`` reads them
    network = build_network(layout, scaling, size)
    own = _distinct(network)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    return network.eval()


def _distinct(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors, those that it ties under their first name only."""
    seen: set[int] = set()
    distinct = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            distinct[name] = tensor
    return distinct


def _read_start(path: Path, file: BinaryIO, size: int) -> bytes:
    """Eight bytes of length, then the header in JSON (github.com/huggingface/safetensors, "Format")."""
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 0 < length <= min(size - 8, MAX_JSON_BYTES):
        refuse(path, f"it is truncated or no safetensors file ({size} bytes)")
    return head + file.read(length)


def _check_origin(path: Path, header: Any, expected: Mapping[str, str]) -> None:
    """Take ``__metadata__`` out of the header: it must name the model that config.json is of."""
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        refuse(path, "it is damaged: its header is no table of tensors")
    origin = header.pop("__metadata__", {})
    for name, value in expected.items():
        if origin.get(name) != value:
            refuse(path, f"its {name} is {origin.get(name)}, config.json has {value}: the files are of two models")


def _check_table(path: Path, header: dict[str, Any], expected: dict[str, Tensor], size: int) -> None:
    """Every tensor of the network, with its type and shape, one behind the other, and nothing else."""
    for name in sorted(expected.keys() | header.keys()):
        shape = list(expected[name].shape) if name in expected else None
        found = header.get(name, {}).get("shape", "missing")
        if shape != found:
            refuse(path, f"tensor {name} is {found}, the network needs {shape or 'none'}")
        if (dtype := header[name].get("dtype")) != _DTYPES[expected[name].dtype]:
            refuse(path, f"tensor {name} holds {dtype}, not finite {expected[name].dtype}")
    spans = []
    for name, tensor in expected.items():
        match header[name].get("data_offsets"):
            case [int(begin), int(end)] if end - begin == tensor.numel() * tensor.element_size():
                spans.append((begin, end, name))
            case other:
                refuse(path, f"tensor {name} lies at {other}, which is not its size")
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            refuse(path, f"tensor {name} begins at byte {begin}, the one before it ends at {position}")
        position = end
    if position != size:
        refuse(path, f"it is truncated or too long: its tensors take {position} bytes, it has {size}")
