"""A trained model on disk: safetensors and JSON, everything needed to rebuild it, nothing pickled.

``tft_model_YYYYMMDD_HHMMSS/`` holds ``model.safetensors``, ``config.json``, ``training_metadata.json`` and
``MODEL_CARD.md`` with its pictures. The network is rebuilt from ``config.json`` alone; what does not fit is refused, in
words, before more memory is taken than the files hold. Weights and config each hold the other's SHA-256: that tells
damage and mixed up files, not who made them. PyTorch is needed to train, to check and to prepare a model to serve.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from models.engine import make_engine
from models.layout import Layout, Scaling, check_size
from models.network_size import NetworkSize
from models.offsets import read_offsets
from models.runtime import CONFORMAL, STAGES, Runtime
from models.untrusted import read_json, read_weights, refuse, sha256
from schemas.contract import Contract
from schemas.errors import ArtifactError, ContractError, InputError, MismatchError
from schemas.fields import Strict, first_problem
from schemas.fingerprint import differences, fingerprint

if TYPE_CHECKING:
    from pytorch_forecasting import TemporalFusionTransformer

WEIGHTS, CONFIG, METADATA, CARD = "model.safetensors", "config.json", "training_metadata.json", "MODEL_CARD.md"
SHIPPED = Path(__file__).parent
_NAME = re.compile(r"tft_model_[0-9]{8}_[0-9]{6}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)  # inputs are scaled in it


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
    model_version: str = Field(pattern=r"^tft_model_[0-9]{8}_[0-9]{6}$")
    contract: dict[str, Any]
    contract_fingerprint: str
    network: NetworkSize
    scaling: ScalingConfig
    vocabulary: dict[str, list[str]]
    unseen_symbols: dict[str, list[str]]
    stages: tuple[str, ...]
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    def origin(self) -> dict[str, str]:
        """What the weights' header has of it; its SHA-256 is of all but ``weights_sha256``, however it is spaced."""
        text = json.dumps(self.model_dump(mode="json", exclude={"weights_sha256"}), sort_keys=True)
        names = {"contract_fingerprint": self.contract_fingerprint, "model_version": self.model_version}
        return {**names, "config_sha256": sha256(text.encode())}


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        folder: where it lies.
        version: the artifact's name; stamped into each forecast.
        contract: the contract it was trained with. fingerprint: of its model part.
    """

    folder: Path
    version: str
    contract: Contract
    fingerprint: str
    config: Config
    layout: Layout
    scaling: Scaling
    metadata: dict[str, Any]

    @cached_property
    def network(self) -> "TemporalFusionTransformer":
        """The network, in evaluation mode; read, checked and built when it is first asked for.

        Raises:
            ArtifactError: the weights are damaged, or not those of the config.
        """
        from models.weights import unpack  # noqa: PLC0415  PyTorch: seconds and half a gigabyte

        return unpack(
            self.folder / WEIGHTS, self.config.network, self.layout, self.scaling,
            calibrated=CONFORMAL in self.config.stages, origin=self.config.origin(),
            expected_sha256=self.config.weights_sha256,
        )  # fmt: skip

    @cached_property
    def offsets(self) -> NDArray[np.float32] | None:
        """[targets, quantiles, horizon] conformal offsets in the network's units, where there are any.

        Raises:
            ArtifactError: the weights are damaged, or not those of the config.
        """
        path, settings = self.folder / WEIGHTS, self.contract.settings
        data = read_weights(path, self.config.weights_sha256)
        if CONFORMAL not in self.config.stages:
            return None
        return read_offsets(path, data, (len(self.layout.targets), len(settings.quantiles), settings.horizon_steps))

    def runtime(self, engine: str = "auto") -> Runtime:
        """Inference with this model; ``engine``: one of ``models.runtime.ENGINES``.

        Raises:
            ArtifactError: the weights are damaged, or not those of the config.
        """
        return Runtime(self.contract, make_engine(self, engine), self.offsets)


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
    """What training made.

    Attributes:
        unseen: by categorical variable, the symbols that training never saw.
        offsets: [targets, quantiles, horizon] conformal offsets in the network's units, if there are any.
    """

    network: "TemporalFusionTransformer"
    layout: Layout
    scaling: Scaling
    size: NetworkSize
    unseen: dict[str, list[str]]
    metadata: dict[str, Any]
    offsets: NDArray[np.float32] | None = None

    def runtime(self) -> Runtime:
        """Inference with the network as it is, in PyTorch."""
        from models.eager import Eager  # noqa: PLC0415  PyTorch, which has trained it

        return Runtime(self.layout.contract, Eager(self.layout, self.scaling, self.network), self.offsets)


def save(root: Path, version: str, trained: Trained, card: str, files: Mapping[str, bytes] | None = None) -> Path:
    """Write an artifact below ``root``; it appears whole or not at all. Returns its absolute path.

    ``files`` are laid beside the card, by plain name; ``load`` does not look at them.
    """
    from models.weights import pack  # noqa: PLC0415  PyTorch, which has trained it

    config = _config(version, trained)
    extra = dict(files or {})
    for name in extra:
        if not _PLAIN.match(name) or name in (WEIGHTS, CONFIG, METADATA, CARD):
            raise InputError(f"{name!r} is no name for a file beside a model card")
    root.mkdir(parents=True, exist_ok=True)
    final = root.absolute() / version
    if final.exists():
        raise InputError(f"{final} exists already")
    weights = pack(trained.network, trained.offsets, config.origin())
    config = config.model_copy(update={"weights_sha256": sha256(weights)})
    contents = {WEIGHTS: weights, CONFIG: _json(config.model_dump(mode="json")), METADATA: _json(trained.metadata)}
    temporary = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=root))
    try:
        for name, content in {**contents, CARD: card.encode(), **extra}.items():
            (temporary / name).write_bytes(content)
        temporary.chmod(0o755)  # a container's user must read it too
        temporary.replace(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _config(version: str, trained: Trained) -> Config:
    layout = trained.layout
    return Config(
        format=1,
        model_version=version,
        contract=layout.contract.schema,
        contract_fingerprint=fingerprint(layout.contract),
        network=trained.size,
        scaling=ScalingConfig(**asdict(trained.scaling)),
        vocabulary=layout.vocabulary,
        unseen_symbols=trained.unseen,
        stages=tuple(stage for stage in STAGES if stage != CONFORMAL or trained.offsets is not None),
        weights_sha256="0" * 64,  # not written yet
    )


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def load(folder: Path, contract: Contract | None = None, *, network: bool = True) -> Model:
    """Load an artifact; with a ``contract``, one that it must fit.

    Args:
        folder: of the artifact.
        contract: to be served.
        network: build the network now, with PyTorch; else what is wrong with the weights shows when they are needed.

    Raises:
        ArtifactError: missing, truncated, damaged, or not what it says.
        MismatchError: it does not fit the contract; the differences in words.
    """
    path = folder / CONFIG
    config = _read_config(folder)
    own = _own_contract(path, config)
    if contract is not None and (found := differences(own, contract)):
        raise MismatchError(f"model {config.model_version} does not fit the contract:\n  " + "\n  ".join(found))
    layout = _layout(path, config, own)
    metadata = read_json(folder / METADATA)
    if not isinstance(metadata, dict):
        refuse(folder / METADATA, "it is no JSON object")
    model = Model(
        folder=folder,
        version=config.model_version,
        contract=contract or own,
        fingerprint=config.contract_fingerprint,
        config=config,
        layout=layout if contract is None else Layout(contract),
        scaling=_scaling(path, config, layout),
        metadata=metadata,
    )
    if network:
        _ = model.network
    return model


def _read_config(folder: Path) -> Config:
    if not folder.is_dir():
        raise ArtifactError(f"there is no model folder {folder}")
    try:
        return Config.model_validate(read_json(folder / CONFIG))
    except ValidationError as error:
        refuse(folder / CONFIG, first_problem(error))


def _own_contract(path: Path, config: Config) -> Contract:
    """The contract that the artifact was trained with, of a size that can be built."""
    try:
        own = Contract(config.contract)
        check_size(own)
    except ContractError as error:
        refuse(path, f"its contract: {error}")
    return own


def _layout(path: Path, config: Config, own: Contract) -> Layout:
    if fingerprint(own) != config.contract_fingerprint:
        refuse(path, f"contract_fingerprint is {config.contract_fingerprint}, its contract's is {fingerprint(own)}")
    try:
        layout = Layout(own)
    except ContractError as error:
        refuse(path, f"its contract: {error}")
    if layout.vocabulary != config.vocabulary:
        refuse(path, f"vocabulary {config.vocabulary} is not that of its contract")
    for name, symbols in config.unseen_symbols.items():
        if not set(symbols) <= set(layout.vocabulary.get(name, [])):
            refuse(path, f"unseen_symbols {symbols} of {name} are not in its vocabulary")
    if config.stages not in (STAGES, tuple(stage for stage in STAGES if stage != CONFORMAL)):
        refuse(path, f"stages {list(config.stages)} are not {list(STAGES)}, with or without {CONFORMAL}")
    return layout


def _scaling(path: Path, config: Config, layout: Layout) -> Scaling:
    given = config.scaling
    wanted = dict.fromkeys(("floor", "level", "spread"), layout.targets) | {"covariates": layout.covariates}
    for what, names in wanted.items():
        values = getattr(given, what)
        if sorted(values) != sorted(names):
            refuse(path, f"scaling.{what} is of {sorted(values)}, not of {sorted(names)}")
    means = {name: mean for name, (mean, _) in given.covariates.items()}
    deviations = {name: deviation for name, (_, deviation) in given.covariates.items()}
    for name, value in (*given.level.items(), *means.items()):
        if abs(value) > _LARGEST:
            refuse(path, f"scaling of {name} is {value}, too large a number")
    for name, value in (*given.floor.items(), *given.spread.items(), *deviations.items()):
        if not _SMALLEST <= value <= _LARGEST:
            refuse(path, f"scaling of {name} is {value}, not a positive float32")
    if unknown := set(given.constant) - set(layout.reals):
        refuse(path, f"scaling.constant names unknown inputs {sorted(unknown)}")
    return Scaling(**given.model_dump())
