"""An artifact for the compiled engine: its weights folded, padded and laid out by PyTorch, and its sizes.

Runs in a process of its own, ``python -m models.export ARTIFACT FOLDER``: whoever serves then needs neither PyTorch nor
the memory that it takes. The folder appears whole or not at all.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from pytorch_forecasting import TemporalFusionTransformer

from models.artifact import load
from models.compiled import SHAPE, WEIGHTS
from models.layout import Layout, Scaling
from models.network_size import NetworkSize
from models.packed import pack
from schemas.errors import FleetcastError


def export(
    layout: Layout, scaling: Scaling, size: NetworkSize, network: TemporalFusionTransformer, folder: Path
) -> None:
    """Write weights and sizes into ``folder``, where there was none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        shape, weights = pack(layout, scaling, size, network)
        np.save(temporary / WEIGHTS, weights)
        (temporary / SHAPE).write_text(shape.model_dump_json(), encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker, with the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Exit code 0, or 3 where the artifact is refused; the reason on stderr."""
    artifact, folder = map(Path, arguments)
    try:
        model = load(artifact)
    except FleetcastError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    export(model.layout, model.scaling, model.config.network, model.network, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
