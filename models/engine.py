"""Which engine runs the network: a function compiled by LLVM, eager PyTorch, which is the reference, or a GPU."""

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

from models.runtime import ENGINES, Engine
from models.untrusted import sha256
from schemas.errors import ArtifactError, FleetcastError, InputError

if TYPE_CHECKING:
    from models.artifact import Model

log = structlog.get_logger(__name__)
_KEPT = 16  # models that are kept prepared
_FORMAT = 8  # raised with every change of what is prepared, or how


def make_engine(model: "Model", name: str = "auto") -> Engine:
    """The engine of that name for the model; ``auto``: what FLEETCAST_ENGINE says, else LLVM.

    Raises:
        InputError: there is no such engine, or no device for it.
        ArtifactError: the weights are damaged, or not those of the config.
    """
    chosen = (os.environ.get("FLEETCAST_ENGINE") or "llvm") if name == "auto" else name
    if chosen not in ENGINES:
        raise InputError(f"engine {chosen!r} is none of {', '.join(ENGINES)}")
    if chosen == "torch":
        from models.eager import Eager  # noqa: PLC0415  PyTorch: seconds and half a gigabyte

        return Eager(model.layout, model.scaling, model.network)
    if chosen == "cuda":
        from models.cuda import Cuda  # noqa: PLC0415  PyTorch

        return Cuda(model.layout, model.scaling, model.network)
    from models.compiled import Compiled  # noqa: PLC0415  who trains needs no compiler

    folder = _prepared(model)
    try:
        return Compiled(model.layout, folder)
    except (OSError, EOFError, ValueError) as error:  # a power cut leaves empty files, say
        log.warning("the prepared model is damaged: it is made again", folder=str(folder), reason=str(error))
        shutil.rmtree(folder)
        return Compiled(model.layout, _prepared(model))


def engines_folder() -> Path:
    """Where prepared models are kept, below XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleetcast" / "engines"


def _prepared(model: "Model") -> Path:
    """The folder of the model as the engine takes it; it is made if it is not there yet, which checks the weights."""
    origin = [model.config.weights_sha256, *model.config.origin().values()]
    code = [str(_FORMAT), version("torch")]
    name = f"{model.version}-{sha256(' '.join([*origin, *code]).encode())[:16]}"
    root = _writable(engines_folder(), name)
    folder = root / name
    if folder.is_dir():
        with contextlib.suppress(OSError):  # a cache that is not ours to write: then nobody prunes it either
            os.utime(folder)
        return folder
    if "network" in model.__dict__:  # built already, so PyTorch is here
        from models.export import export  # noqa: PLC0415  PyTorch

        export(model.layout, model.scaling, model.config.network, model.network, folder)
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
    log.warning("the model is prepared for the engine at each start: no cache folder", folder=str(root), reason=reason)
    temporary = Path(tempfile.mkdtemp(prefix="fleetcast-engines-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _export(model: "Model", folder: Path) -> None:
    log.info("preparing the model for the engine, once", model=model.version, folder=str(folder))
    command = [sys.executable, "-P", "-m", "models.export", str(model.folder), str(folder)]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, text=True)
    if done.returncode == ArtifactError.exit_code:
        raise ArtifactError(done.stderr.strip())
    if done.returncode:
        raise FleetcastError(f"{model.version} was not prepared for the engine: {done.stderr.strip()[-2000:]}")


def _prune(root: Path) -> None:
    """Forget those that were not used for longest; who made a model a day would else fill the disk in a year."""
    by_use = sorted((folder for folder in root.iterdir() if folder.is_dir()), key=lambda folder: folder.stat().st_mtime)
    for folder in by_use[:-_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
