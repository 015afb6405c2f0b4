"""Which engine runs the network: OpenVINO on graphs made once per artifact, eager PyTorch, the reference, or a GPU."""

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from models.block import BLOCK_ROWS
from models.runtime import ENGINES, Engine
from models.untrusted import sha256
from schemas.errors import ArtifactError, FleetcastError, InputError

if TYPE_CHECKING:
    from models.artifact import Model

log = structlog.get_logger(__name__)
_KEPT = 16  # models whose graphs are kept
_GRAPH_FORMAT = 1  # raised with every change of what the graphs compute


def make_engine(model: "Model", name: str = "auto") -> Engine:
    """The engine of that name for the model; ``auto``: what FLEETCAST_ENGINE says, else OpenVINO.

    Raises:
        InputError: there is no such engine, or no device for it.
        ArtifactError: the weights are damaged, or not those of the config.
    """
    chosen = (os.environ.get("FLEETCAST_ENGINE") or "openvino") if name == "auto" else name
    if chosen not in ENGINES:
        raise InputError(f"engine {chosen!r} is none of {', '.join(ENGINES)}")
    if chosen == "torch":
        from models.eager import Eager  # noqa: PLC0415  PyTorch: seconds and half a gigabyte

        return Eager(model.layout, model.scaling, model.network)
    if chosen == "cuda":
        from models.cuda import Cuda  # noqa: PLC0415  PyTorch

        return Cuda(model.layout, model.scaling, model.network)
    from models.compiled import Compiled  # noqa: PLC0415  who trains needs no OpenVINO

    return Compiled(model.layout, _graphs(model))


def engines_folder() -> Path:
    """Where graphs are kept, below XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleetcast" / "engines"


def _graphs(model: "Model") -> Path:
    """The folder of the model's graphs; they are made where they are not there yet, which checks the weights first."""
    origin = [model.config.weights_sha256, *model.config.origin().values()]
    code = [str(_GRAPH_FORMAT), str(BLOCK_ROWS), *(version(name) for name in ("openvino", "torch"))]
    name = f"{model.version}-{sha256(' '.join([*origin, *code]).encode())[:16]}"
    root = _writable(engines_folder(), name)
    folder = root / name
    if folder.is_dir():
        with contextlib.suppress(OSError):  # a cache that is not ours to write: then nobody prunes it either
            os.utime(folder)
        return folder
    if "network" in model.__dict__:  # built already, so PyTorch is here
        from models.export import export  # noqa: PLC0415  PyTorch

        export(model.layout, model.scaling, model.network, folder)
    else:
        _export(model, folder)
    _prune(root)
    return folder


def _writable(root: Path, name: str) -> Path:
    """The cache; where it can be neither read from nor written to, a folder that goes with this process."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if (root / name).is_dir() or os.access(root, os.W_OK | os.X_OK):
            return root
        reason = "it is not writable"
    except OSError as error:
        reason = str(error)
    log.warning("the engine's graphs are made at each start: no cache folder", folder=str(root), reason=reason)
    temporary = Path(tempfile.mkdtemp(prefix="fleetcast-engines-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _export(model: "Model", folder: Path) -> None:
    log.info("making the engine's graphs, once for this model", model=model.version, folder=str(folder))
    command = [sys.executable, "-P", "-m", "models.export", str(model.folder), str(folder)]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, text=True)
    if done.returncode == ArtifactError.exit_code:
        raise ArtifactError(done.stderr.strip())
    if done.returncode:
        raise FleetcastError(f"the graphs of {model.version} were not made: {done.stderr.strip()[-2000:]}")


def _prune(root: Path) -> None:
    """Forget the graphs that were not used for longest; who made a model a day would else fill the disk in a year."""
    by_use = sorted((folder for folder in root.iterdir() if folder.is_dir()), key=lambda folder: folder.stat().st_mtime)
    for folder in by_use[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
