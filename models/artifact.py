"""A trained model on disk: safetensors and JSON, everything needed to rebuild it, nothing pickled.

``tft_model_YYYYMMDD_HHMMSS/`` holds ``model.safetensors``, ``config.json``, ``training_metadata.json`` and
``MODEL_CARD.md``. The network is rebuilt from ``config.json`` alone; what does not fit is refused, in words.
"""

import json
import re
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import Field, ValidationError
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor, nn

from models.layout import Layout, Scaling
from models.network import NetworkSize, build_network
from models.runtime import STAGES, Runtime
from schemas.contract import Contract
from schemas.errors import ArtifactError, ContractError, InputError, MismatchError
from schemas.fields import Strict, first_problem
from schemas.fingerprint import differences, fingerprint

WEIGHTS, CONFIG, METADATA, CARD = "model.safetensors", "config.json", "training_metadata.json", "MODEL_CARD.md"
SHIPPED = Path(__file__).parent
_NAME = re.compile(r"tft_model_\d{8}_\d{6}\Z")
_MAX_CONFIG_BYTES = 4 << 20
_MAX_HEADER_BYTES = 4 << 20
_MAX_WEIGHTS_BYTES = 1 << 30


class ScalingConfig(Strict):
    """``Scaling`` as it stands in config.json."""

    floor: dict[str, float]
    level: dict[str, float]
    spread: dict[str, float]
    covariates: dict[str, tuple[float, float]]
    constant: tuple[str, ...]


class Config(Strict):
    """config.json."""

    format: Literal[1]
    model_version: str = Field(pattern=r"^tft_model_\d{8}_\d{6}$")
    contract: dict[str, Any]
    contract_fingerprint: str
    network: NetworkSize
    scaling: ScalingConfig
    vocabulary: dict[str, list[str]]
    unseen_symbols: dict[str, list[str]]
    stages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model.

    Attributes:
        version: the artifact's name; stamped into each forecast.
        contract: the contract it was trained with. fingerprint: of its model part.
    """

    version: str
    contract: Contract
    fingerprint: str
    config: Config
    layout: Layout
    scaling: Scaling
    network: TemporalFusionTransformer
    metadata: dict[str, Any]

    def runtime(self) -> Runtime:
        """Inference with this model."""
        return Runtime(self.layout, self.scaling, self.network)


def find(name: str) -> Path:
    """The artifact folder that ``DIR|latest`` names: the newest in ./models, else the shipped one.

    Raises:
        InputError: there is none.
    """
    if name != "latest":
        return Path(name)
    for root in (Path.cwd() / "models", SHIPPED):
        found = sorted(p for p in root.glob("tft_model_*") if _NAME.match(p.name) and p.is_dir())
        if found:
            return found[-1]
    raise InputError("no tft_model_* in ./models and none is shipped: train one with `fleetcast train`")


@dataclass(frozen=True, slots=True)
class Trained:
    """What training made. ``unseen``: by categorical variable, the symbols that training never saw."""

    network: TemporalFusionTransformer
    layout: Layout
    scaling: Scaling
    size: NetworkSize
    unseen: dict[str, list[str]]
    metadata: dict[str, Any]


def save(root: Path, version: str, trained: Trained, card: str) -> Path:
    """Write an artifact below ``root``; it appears whole or not at all. Returns its absolute path."""
    layout, scaling = trained.layout, trained.scaling
    config = Config(
        format=1,
        model_version=version,
        contract=layout.contract.schema,
        contract_fingerprint=fingerprint(layout.contract),
        network=trained.size,
        scaling=ScalingConfig(
            floor=scaling.floor,
            level=scaling.level,
            spread=scaling.spread,
            covariates=scaling.covariates,
            constant=scaling.constant,
        ),
        vocabulary=layout.vocabulary,
        unseen_symbols=trained.unseen,
        stages=STAGES,
    )
    root.mkdir(parents=True, exist_ok=True)
    final = root.absolute() / version
    if final.exists():
        raise InputError(f"{final} exists already")
    temporary = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=root))
    try:
        tensors = {name: t.detach().cpu().contiguous() for name, t in _distinct(trained.network).items()}
        weights_metadata = {"contract_fingerprint": config.contract_fingerprint, "model_version": version}
        safetensors.torch.save_file(tensors, temporary / WEIGHTS, metadata=weights_metadata)
        (temporary / CONFIG).write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
        (temporary / METADATA).write_text(json.dumps(trained.metadata, indent=2) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(card, encoding="utf-8")
        (temporary / WEIGHTS).chmod(0o644)  # safetensors writes 0600; a container's user must read it too
        temporary.chmod(0o755)
        temporary.replace(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def load(folder: Path, contract: Contract | None = None) -> Model:
    """Load an artifact; with a ``contract``, one that it must fit.

    Raises:
        ArtifactError: missing, truncated, damaged, or not what it says.
        MismatchError: it does not fit the contract; the differences in words.
    """
    config = _read_config(folder)
    try:
        own = Contract(config.contract)
        layout = Layout(own)
    except ContractError as error:
        raise ArtifactError(f"{folder / CONFIG}: its contract: {error}") from None
    if contract is not None and (found := differences(own, contract)):
        raise MismatchError(f"model {config.model_version} does not fit the contract:\n  " + "\n  ".join(found))
    if fingerprint(own) != config.contract_fingerprint:
        raise ArtifactError(
            f"{folder / CONFIG}: the contract's fingerprint is {fingerprint(own)}, "
            f"but contract_fingerprint says {config.contract_fingerprint}"
        )
    if layout.vocabulary != config.vocabulary:
        raise ArtifactError(f"{folder / CONFIG}: vocabulary {config.vocabulary} is not that of its contract")
    if config.stages != STAGES:
        raise ArtifactError(f"{folder / CONFIG}: stages {list(config.stages)} are not {list(STAGES)}")
    scaling = _scaling(folder, config, layout)
    network = _read_network(folder, config, layout, scaling)
    metadata = _read_json(folder / METADATA)
    if not isinstance(metadata, dict):
        raise ArtifactError(f"{folder / METADATA} is no JSON object")
    served = contract or own
    layout = Layout(served) if contract is not None else layout
    return Model(
        version=config.model_version,
        contract=served,
        fingerprint=config.contract_fingerprint,
        config=config,
        layout=layout,
        scaling=scaling,
        network=network,
        metadata=metadata,
    )


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ArtifactError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON: {error}") from None


def _read_config(folder: Path) -> Config:
    if not folder.is_dir():
        raise ArtifactError(f"there is no model folder {folder}")
    try:
        return Config.model_validate(_read_json(folder / CONFIG))
    except ValidationError as error:
        raise ArtifactError(f"{folder / CONFIG}: {first_problem(error)}") from None


def _scaling(folder: Path, config: Config, layout: Layout) -> Scaling:
    given = config.scaling
    wanted: dict[str, tuple[dict[str, Any], list[str]]] = {
        "floor": (given.floor, layout.targets),
        "level": (given.level, layout.targets),
        "spread": (given.spread, layout.targets),
        "covariates": (given.covariates, layout.covariates),
    }
    for what, (values, names) in wanted.items():
        if sorted(values) != sorted(names):
            raise ArtifactError(f"{folder / CONFIG}: scaling.{what} is of {sorted(values)}, not of {sorted(names)}")
    deviations = [(name, deviation) for name, (_, deviation) in given.covariates.items()]
    for name, value in (*given.floor.items(), *given.spread.items(), *deviations):
        if value <= 0:
            raise ArtifactError(f"{folder / CONFIG}: scaling of {name} is {value}, not a positive number")
    if unknown := set(given.constant) - set(layout.reals):
        raise ArtifactError(f"{folder / CONFIG}: scaling.constant names unknown inputs {sorted(unknown)}")
    return Scaling(**given.model_dump())


def _distinct(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors, those that it ties under their first name only."""
    seen: set[int] = set()
    distinct = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            distinct[name] = tensor
    return distinct


def _read_network(folder: Path, config: Config, layout: Layout, scaling: Scaling) -> TemporalFusionTransformer:
    """Rebuild the network, check names and shapes against the file's header, and only then read its tensors."""
    path = folder / WEIGHTS
    with torch.device("meta"):
        expected = {n: list(t.shape) for n, t in _distinct(build_network(layout, scaling, config.network)).items()}
    header = _read_header(path)
    weights_metadata = header.pop("__metadata__", {})
    for name in ("contract_fingerprint", "model_version"):
        if weights_metadata.get(name) != getattr(config, name):
            raise ArtifactError(
                f"{path}: its {name} is {weights_metadata.get(name)}, {CONFIG} says {getattr(config, name)}: "
                "the files are of two models"
            )
    found = {name: entry.get("shape") for name, entry in header.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ArtifactError(
                f"{path}: tensor {name} is {found.get(name, 'missing')}, the network needs {expected.get(name, 'none')}"
            )
    network = build_network(layout, scaling, config.network)
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from None
    own = _distinct(network)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.dtype != own[name].dtype or not torch.isfinite(tensor).all():
                raise ArtifactError(f"{path}: tensor {name} holds something other than finite {own[name].dtype}")
            own[name].copy_(tensor)
    return network.eval()


def _read_header(path: Path) -> dict[str, Any]:
    """The safetensors header: eight bytes of length, then JSON (github.com/huggingface/safetensors, "Format")."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else 0
            if not 0 < length <= min(size - 8, _MAX_HEADER_BYTES) or size > _MAX_WEIGHTS_BYTES:
                raise ArtifactError(f"{path} is truncated or no safetensors file ({size} bytes)")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: its header is not JSON: {error}") from None
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ArtifactError(f"{path} is damaged: its header is no table of tensors")
    return header
