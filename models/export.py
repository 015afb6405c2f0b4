"""Graphs of an artifact for the compiled engine: folded and traced by PyTorch, kept as OpenVINO's IR.

Runs in a process of its own, ``python -m models.export ARTIFACT FOLDER``: whoever serves then needs neither PyTorch nor
the memory that it takes. The folder appears whole or not at all.
"""

import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from pytorch_forecasting import TemporalFusionTransformer

from models.artifact import load
from models.block import BLOCK_ROWS, blank_windows, no_offsets
from models.compiled import GRAPHS
from models.folded import Folded
from models.graph_inputs import graph_arrays
from models.layout import Layout, Scaling
from schemas.errors import FleetcastError


def export(layout: Layout, scaling: Scaling, network: TemporalFusionTransformer, folder: Path) -> None:
    """Write both graphs, of blocks of ``BLOCK_ROWS`` windows, into ``folder``, where there was none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for full, name in GRAPHS.items():
            openvino.save_model(graph(layout, scaling, network, full=full), temporary / name, compress_to_fp16=False)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker, with the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def graph(layout: Layout, scaling: Scaling, network: TemporalFusionTransformer, *, full: bool) -> openvino.Model:
    """The folded network as a graph of fixed shapes."""
    windows, offsets = blank_windows(layout.contract, BLOCK_ROWS), no_offsets(layout.contract)
    arrays = tuple(torch.from_numpy(array) for array in graph_arrays(layout, windows, offsets, full=full))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own tracing
        folded = Folded(layout, scaling, network.eval(), full=full).eval()
        # Traced: of a graph of ``torch.export`` OpenVINO 2026.4 unrolls the LSTM, 384 steps of 30 operators. And not by
        # ``openvino.convert_model``, which does the same and then tells Google Analytics.
        frontend = FrontEndManager().load_by_framework("pytorch")
        traced = TorchScriptPythonDecoder(folded, example_input=arrays)  # must outlive the conversion
        made: openvino.Model = frontend.convert(frontend.load(traced))
    made.reshape({port: list(array.shape) for port, array in zip(made.inputs, arrays, strict=True)})
    _whole_sequences(made)
    return made


def _whole_sequences(made: openvino.Model) -> None:
    """Say of each LSTM that it runs to its end: only then is it one compiled operator, ten times as fast."""
    for operator in made.get_ops():
        if operator.get_type_name() == "LSTMSequence":
            rows, steps = operator.input(0).get_shape()[:2]
            lengths = openvino.opset13.constant(np.full(rows, steps, np.int32))
            operator.input(3).replace_source_output(lengths.output(0))
    made.validate_nodes_and_infer_types()


def main(arguments: list[str]) -> int:
    """Exit code 0, or 3 where the artifact is refused; the reason on stderr."""
    artifact, folder = map(Path, arguments)
    try:
        model = load(artifact)
    except FleetcastError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    export(model.layout, model.scaling, model.network, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
