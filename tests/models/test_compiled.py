"""The compiled function is the reference's network, whatever the contract and the sizes."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import kernel, vector_code
from models.compiled import SHAPE, WEIGHTS, Compiled
from models.eager import Eager
from models.export import export
from models.windows import WindowBatch
from tests.models.test_folded import CASES, scene


def without(*prefixes: str) -> dict[str, bool]:
    """What a lesser CPU can do, for LLVM."""
    features = kernel.cpu_features()
    for name in features:
        features[name] = features[name] and not name.startswith(prefixes)
    return features


OLDER = {
    "AVX2": ("avx512", "avx10", "amx", "avx-", "avxvnni"),
    "no AVX": ("avx", "amx", "fma", "f16c", "vaes", "vpcl", "gfni", "xop"),
}


@pytest.mark.parametrize("cpu", OLDER)
def test_an_older_cpu_computes_the_same(cpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With registers half as wide, or without estimates of reciprocals."""
    features = without(*OLDER[cpu])
    for module in (kernel, vector_code):
        monkeypatch.setattr(module, "cpu_features", lambda: copy.copy(features))
    test_equals_the_reference("every role", tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference(name: str, tmp_path: Path) -> None:
    """For any contract and size: full and short windows side by side, in an odd number, conformal offsets included."""
    (layout, scaling, network, full), (*_, short) = scene(name, full=True), scene(name, full=False)
    windows = WindowBatch.concat([short.take(slice(0, 4)), full.take(slice(0, 5)), short.take(slice(4, 8))])
    settings = layout.contract.settings
    shape = (len(layout.targets), len(settings.quantiles), settings.horizon_steps)
    offsets = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
    export(layout, scaling, CASES[name][1], network, tmp_path / "prepared")

    expected = Eager(layout, scaling, network).run(windows, offsets)
    got = Compiled(layout, tmp_path / "prepared").run(windows, offsets)

    assert (np.abs(got - expected) / (1 + np.abs(expected))).max() <= 1e-4
    assert np.ptp(expected, axis=0).max() > 0.1, "windows differ in their forecasts"


@pytest.mark.parametrize("bias", [100.0, -200.0, 355.0, 400.0, -1e4, 1e30])
def test_what_overflows_is_withheld(bias: float, tmp_path: Path) -> None:
    """An output that no float32 holds in the target's units is not finite, and never looks like a forecast."""
    layout, scaling, network, windows = scene("every role", full=True)
    with torch.no_grad():
        network.output_layer[0].bias += bias
    export(layout, scaling, CASES["every role"][1], network, tmp_path / "prepared")
    settings = layout.contract.settings
    offsets = np.zeros((len(layout.targets), len(settings.quantiles), settings.horizon_steps), np.float32)

    got = Compiled(layout, tmp_path / "prepared").run(windows, offsets)

    assert not np.isfinite(got[:, 0]).any()


def test_windows_of_other_sizes_never_get_to_the_function(tmp_path: Path) -> None:
    """It looks at no array's size: more windows than a block has, longer ones, or none of a length, are refused."""
    layout, scaling, network, windows = scene("every role", full=True)
    export(layout, scaling, CASES["every role"][1], network, tmp_path / "prepared")
    engine = Compiled(layout, tmp_path / "prepared")
    settings = layout.contract.settings
    offsets = np.zeros((len(layout.targets), len(settings.quantiles), settings.horizon_steps), np.float32)
    wrong = [
        WindowBatch.concat([windows, windows]),
        replace(windows, reals=windows.reals[:, 1:]),
        replace(windows, categories=windows.categories[..., :0]),
        replace(windows, lengths=windows.lengths + 1),
        replace(windows, lengths=windows.lengths * 0),
    ]

    for batch in wrong:
        with pytest.raises(ValueError, match="windows of sizes"):
            engine.run(batch, offsets)


@pytest.mark.parametrize("damage", ["empty", "short", "no sizes"])
def test_a_damaged_folder_is_told(damage: str, tmp_path: Path) -> None:
    """Nothing is computed from weights that are not all there."""
    layout, scaling, network, _ = scene("every role", full=True)
    folder = tmp_path / "prepared"
    export(layout, scaling, CASES["every role"][1], network, folder)
    if damage == "short":
        np.save(folder / WEIGHTS, np.load(folder / WEIGHTS)[:-1])
    else:
        (folder / (WEIGHTS if damage == "empty" else SHAPE)).write_bytes(b"")

    with pytest.raises((OSError, EOFError, ValueError)):
        Compiled(layout, folder)
