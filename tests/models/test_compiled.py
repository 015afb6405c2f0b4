"""The compiled function is the reference's network, whatever the contract and the sizes."""

import copy
from pathlib import Path

import numpy as np
import pytest

from models import kernel, vector_code
from models.compiled import Compiled
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
